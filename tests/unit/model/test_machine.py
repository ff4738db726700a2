# SPDX-License-Identifier: Apache-2.0
"""Machines that can be, and the refusal of others."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import UsageError
from innkeeper.model.machine import Machine
from innkeeper.model.names import check_name
from innkeeper.model.sizes import MIB


@pytest.mark.parametrize("name", ["a", "web-1", "x" * 40, "0", "a--b"])
def test_names_that_are_host_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "x" * 41, "ü", "a\n", "a b"]
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(UsageError, match="is not a machine name"):
        check_name(name)


@pytest.mark.parametrize(
    ("values", "brief"),
    [
        ({"cpus": 0}, "0 CPUs"),
        ({"cpus": 256}, "256 CPUs"),
        ({"memory_bytes": 16 * MIB}, "16M of memory is too little"),
        ({"memory_bytes": 512 * MIB + 1}, "bytes of memory"),
    ],
)
def test_impossible_machines_are_refused(values: dict[str, int], brief: str) -> None:
    with pytest.raises(UsageError, match=brief):
        Machine(name="box", **values)  # type: ignore[arg-type]  # values by name


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `cpu`"):
        msgspec.convert({"name": "box", "cpu": 2}, Machine)


def test_a_machine_survives_json() -> None:
    machine = Machine(name="box", cpus=2, append=("quiet",), network="user")
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine
