# SPDX-License-Identifier: Apache-2.0
"""Machines as TOML: the same settings as on the command line, sizes as people write them."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec

from innkeeper.errors import UnknownName, UsageError
from innkeeper.model.disk import parse_disk_use
from innkeeper.model.machine import Machine
from innkeeper.model.ports import parse_port
from innkeeper.model.share import parse_share
from innkeeper.model.sizes import parse_size

# Every key of a machine file; `memory`, `ports`, `disks` and `shares` are texts there.
KEYS = (
    *("name", "cid", "cpus", "memory", "image", "flavour", "root", "root_overlay", "root_device"),
    *("kernel", "initrd", "append"),
    *("accel", "network", "ports", "disks", "forward", "restart"),
    *("firmware", "oem_strings", "qemu_args", "timezone"),
    *("shares", "share_cache", "share_transport", "notify"),
)


def parse_machine(text: str, *, source: str, name: str | None = None) -> Machine:
    """The machine that a TOML text describes.

    :param source: the file, for errors.
    :param name: a name that goes before the file's.
    :raise UsageError: it is not TOML, has an unknown key or an impossible value.
    """
    return machine_from_table(read_table(text, source=source), source=source, name=name)


def read_table(text: str, *, source: str, stage: str = "machine file") -> dict[str, Any]:
    """A TOML text as a table; its keys are checked by :func:`machine_from_table`.

    :param stage: whose file it is, for errors.
    :raise UsageError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{source} is not TOML: {exc}", stage=stage) from exc


def machine_schema() -> dict[str, Any]:
    """The JSON Schema of a machine file."""
    (_,), components = msgspec.json.schema_components([Machine], ref_template="#/$defs/{name}")
    schema = components["Machine"]
    properties = schema["properties"]
    properties.pop("memory_bytes")
    properties["memory"] = {"type": "string", "default": "512M", "examples": ["512M", "2G"]}
    properties["ports"] = {
        "type": "array",
        "items": {"type": "string", "examples": ["8080:80", "127.0.0.1:5353:53/udp"]},
        "default": [],
    }
    properties["disks"] = {
        "type": "array",
        "items": {"type": "string", "examples": ["data:/mnt/data", "music:/music:ro"]},
        "default": [],
    }
    properties["shares"] = {
        "type": "array",
        "items": {
            "type": "string",
            "examples": ["/home/me/src:/src", "/data:/data:ro,id=1000-1234"],
        },
        "default": [],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An innkeeper machine file",
        **{key: value for key, value in schema.items() if key not in ("title", "properties")},
        "properties": {key: properties[key] for key in KEYS},
    }


def change_machine(machine: Machine, table: dict[str, Any], *, source: str) -> Machine:
    """The machine with the values of a table in place of its own.

    :raise UsageError: as :func:`parse_machine`.
    """
    return machine_from_table(table, source=source, name=machine.name, base=machine)


def machine_from_table(
    table: dict[str, Any], *, source: str, name: str | None = None, base: Machine | None = None
) -> Machine:
    """The machine in a decoded table; as :func:`parse_machine`.

    :param base: whose settings count where the table has none.
    """
    for key in table:
        if key not in KEYS:
            raise UnknownName(f"key in {source}:", key, KEYS, stage="machine file")
    values = dict(table)
    if name is not None:
        values["name"] = name
    if "name" not in values:
        raise UsageError(f"{source} gives no name", stage="machine file", fix='add name = "..."')
    if "memory" in values:
        values["memory_bytes"] = parse_size(str(values.pop("memory")))
    try:
        if "ports" in values:
            values["ports"] = tuple(parse_port(str(port)) for port in values["ports"])
        if "disks" in values:
            values["disks"] = tuple(parse_disk_use(str(disk)) for disk in values["disks"])
        if "shares" in values:
            values["shares"] = tuple(parse_share(str(share)) for share in values["shares"])
        defaults = {} if base is None else msgspec.structs.asdict(base)
        return msgspec.convert({**defaults, **values}, Machine)
    except (msgspec.ValidationError, TypeError) as exc:
        raise UsageError(f"{source}: {exc}", stage="machine file") from exc
