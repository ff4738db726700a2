# SPDX-License-Identifier: Apache-2.0
"""The names that a guest is told."""

from __future__ import annotations

from innkeeper.agent.frames import FrameDecoder
from innkeeper.agent.pb import announce_pb2
from innkeeper.keeper.names import guest_names, names_frame
from innkeeper.model.topology_file import NAMES_MAXIMUM, parse_topology

TEXT = """\
name = "lab"
[machines.web]
[machines.db]
[services.store]
machine = "db"
port = 5432
[services.printer]
host = "tcp:127.0.0.1:631"
port = 631
"""


def test_machines_services_and_the_host() -> None:
    lab = parse_topology(TEXT, source="lab.toml")
    cids = {"web": 1024, "db": 2**24}
    assert guest_names(lab, cids) == {
        "host": 2,
        "web": 1024,
        "db": 2**24,
        "store": 2**24,
        "printer": 2,
    }
    assert guest_names(None, {}) == {"host": 2}


def test_the_frame_holds_both_families() -> None:
    (payload,) = FrameDecoder().feed(names_frame({"host": 2, "db": 2**24}))
    told = announce_pb2.HostMessage.FromString(payload).names.names
    assert [(one.name, list(one.addresses)) for one in told] == [
        ("host.inn", ["240.0.0.2", "fd69:6e6e:6b70::2"]),
        ("db.inn", ["fd69:6e6e:6b70::100:0"]),
    ]


def test_as_many_names_as_a_file_may_have_fit() -> None:
    assert names_frame({f"{number:040}": 2**24 - 1 for number in range(NAMES_MAXIMUM + 1)})
