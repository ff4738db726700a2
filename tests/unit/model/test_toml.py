# SPDX-License-Identifier: Apache-2.0
"""Machine files: the keys, the refusals, the schema."""

from __future__ import annotations

import pytest

from innkeeper.errors import UnknownName, UsageError
from innkeeper.model.machine import Machine
from innkeeper.model.sizes import GIB
from innkeeper.model.toml import KEYS, change_machine, machine_schema, parse_machine


def test_a_machine_file() -> None:
    text = """
    name = "web"
    cpus = 2
    memory = "1G"
    network = "user"
    ports = ["8080:80", "5353:53/udp"]
    restart = "always"
    append = ["quiet"]
    """
    machine = parse_machine(text, source="web.toml")
    assert (machine.name, machine.cpus, machine.memory_bytes) == ("web", 2, GIB)
    assert [str(port) for port in machine.ports] == [
        "127.0.0.1:8080:80/tcp",
        "127.0.0.1:5353:53/udp",
    ]
    assert machine.append == ("quiet",)
    assert parse_machine(text, source="web.toml", name="other").name == "other"


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("name = ", "web.toml is not TOML"),
        ('memory = "1G"', "web.toml gives no name"),
        ('name = "x"\ncpus = "two"', "Expected `int`"),
        ('name = "x"\nmemory = "much"', "is not a size"),
        ('name = "x"\nrestart = "sometimes"', "Invalid enum value"),
        ('name = "x"\nports = "80:80"', "is not a published port"),
        ('name = "x"\nports = ["80:80"]', "published ports need a network"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, brief: str) -> None:
    with pytest.raises(UsageError, match=brief):
        parse_machine(text, source="web.toml")


def test_a_change_keeps_what_it_does_not_name() -> None:
    base = parse_machine(
        'name = "x"\nnetwork = "user"\nports = ["80:80"]\nmemory = "1G"', source="x.toml"
    )
    changed = change_machine(base, {"cpus": 2, "ports": ["81:80"]}, source="options")
    assert (changed.cpus, changed.memory_bytes, changed.network) == (2, GIB, "user")
    assert [port.host_port for port in changed.ports] == [81]
    assert change_machine(base, {"memory": "2G"}, source="options").ports == base.ports
    with pytest.raises(UsageError, match="published ports need a network"):
        change_machine(base, {"network": "none"}, source="options")


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown key in web\.toml: 'memroy'") as caught:
        parse_machine('name = "x"\nmemroy = "1G"', source="web.toml")
    assert "did you mean 'memory'?" in caught.value.fix


def test_the_schema_has_every_key_and_every_setting_is_a_key() -> None:
    properties = machine_schema()["properties"]
    assert tuple(properties) == KEYS
    fields = set(Machine.__struct_fields__) - {"memory_bytes"} | {"memory"}
    assert set(KEYS) == fields
