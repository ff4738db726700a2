# SPDX-License-Identifier: Apache-2.0
"""Ports of the host that no service may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.errors import UsageError
from innkeeper.keeper.plan import guestlog_socket
from innkeeper.model.hostservice import OWN_PORTS, check_port
from innkeeper.registry.layout import GuestFolder


def test_every_port_that_a_keeper_listens_on_is_known() -> None:
    folder = GuestFolder(Path("/run/x"))
    listened = (folder.announce, guestlog_socket(folder), folder.shares_port)
    assert {int(path.name.rpartition("_")[2]) for path in listened} < OWN_PORTS.keys()
    for port in OWN_PORTS:
        with pytest.raises(UsageError, match="innkeeper's own"):
            check_port(port)


@pytest.mark.parametrize("port", [None, "80", -1, 2**32 - 1, True, 8.0])
def test_what_is_no_port(port: object) -> None:
    with pytest.raises(UsageError, match="is no port"):
        check_port(port)
