# SPDX-License-Identifier: Apache-2.0
"""UEFI firmware: found by the descriptors that packages install, given to QEMU as two flash devices.

The descriptors are those of QEMU's docs/interop/firmware.json: JSON files whose
names order them; a file in a folder that goes before masks one of the same name
behind it, and an empty file masks without a replacement.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from innkeeper.errors import HostError, MissingProgram, UsageError
from innkeeper.model.firmware import (
    Firmware,
    FirmwareFile,
    GuestFirmware,
    parse_firmware,
)
from innkeeper.model.machine import Machine
from innkeeper.system.files import naming_errors, write_atomic

# A board of the family whose alias is "q35"; descriptors name boards by patterns.
_BOARD = "pc-q35-7.2"
# Secure Boot needs SMM, which costs a boot under TCG and which our board has off.
_UNWANTED = {"requires-smm", "secure-boot", "enrolled-keys"}
_DESCRIPTOR_LIMIT_BYTES = 1 << 20
# The largest flash that q35 takes is 16 MiB with code and variables together.
_VARIABLES_LIMIT_BYTES = 16 << 20


def descriptor_folders(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders with descriptors; the first goes before the others."""
    home = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME") or "/") / ".config"
    return (
        Path(home) / "qemu/firmware",
        Path("/etc/qemu/firmware"),
        Path("/usr/share/qemu/firmware"),
    )


def find_firmware(wanted: str, folders: Iterable[Path] | None = None) -> Firmware | None:
    """The firmware that a machine asks for by `wanted`; None for the default.

    :raise MissingProgram: no UEFI firmware for our board is installed.
    :raise HostError: a file that was given cannot be read.
    """
    if wanted == "default":
        return None
    given = parse_firmware(wanted)
    if given is not None:
        return _absolute(given)
    searched = tuple(folders) if folders is not None else descriptor_folders(os.environ)
    for path in _descriptors(searched):
        firmware = read_descriptor(_read(path, _DESCRIPTOR_LIMIT_BYTES))
        if firmware is not None and all(
            Path(file.path).is_file() for file in (firmware.code, firmware.template)
        ):
            return firmware
    raise MissingProgram(
        "no UEFI firmware for x86-64 (OVMF) is installed",
        stage="firmware",
        evidence=tuple(f"looked in {folder}" for folder in searched),
        fix="apt-get install ovmf, or give --firmware CODE:VARIABLES",
    )


def read_descriptor(data: bytes) -> Firmware | None:
    """The firmware that a descriptor describes, where it is one for our board."""
    try:
        value: Any = msgspec.json.decode(data)
        mapping = value["mapping"]
        boards = [
            pattern
            for target in value["targets"]
            if target["architecture"] == "x86_64"
            for pattern in target["machines"]
        ]
        if (
            "uefi" not in value["interface-types"]
            or mapping["device"] != "flash"
            or mapping.get("mode", "split") != "split"
            or _UNWANTED & set(value["features"])
            or not any(fnmatchcase(_BOARD, pattern) for pattern in boards)
        ):
            return None
        return Firmware(
            code=msgspec.convert(_file(mapping["executable"]), FirmwareFile),
            template=msgspec.convert(_file(mapping["nvram-template"]), FirmwareFile),
            description=str(value["description"]),
        )
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        # Somebody else's file: one that makes no sense describes nothing.
        return None


def place_variables(guest: GuestFirmware) -> None:
    """Give a guest that has none its own file of UEFI variables, whole or not at all.

    :raise HostError: the template cannot be read or the file not be written.
    """
    path = Path(guest.variables)
    if not path.exists():
        write_atomic(path, _read(Path(guest.firmware.template.path), _VARIABLES_LIMIT_BYTES))


def firmware_options(guest: GuestFirmware | None) -> tuple[str, ...]:
    """QEMU's arguments for the flash devices."""
    if guest is None:
        return ()
    code, template = guest.firmware.code, guest.firmware.template
    return (
        *_flash("uefi-code", code.path, code.format, read_only=True),
        *_flash("uefi-vars", guest.variables, template.format, read_only=False),
        "-machine",
        "pflash0=uefi-code,pflash1=uefi-vars",
    )


def oem_options(machine: Machine) -> tuple[str, ...]:
    """QEMU's arguments for the OEM strings, SMBIOS table type 11."""
    return tuple(
        part
        for text in machine.oem_strings
        for part in ("-smbios", f"type=11,value={text.replace(',', ',,')}")
    )


def _flash(name: str, path: str, kind: str, *, read_only: bool) -> tuple[str, str]:
    options = {
        "driver": kind,
        "node-name": name,
        "read-only": read_only,
        "file": {"driver": "file", "filename": path, "read-only": read_only},
    }
    return ("-blockdev", msgspec.json.encode(options).decode())


def _file(value: dict[str, str]) -> dict[str, str]:
    return {"path": value["filename"], "format": value["format"]}


def _descriptors(folders: Iterable[Path]) -> list[Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob("*.json"):
            found.setdefault(path.name, path)
    return [path for _, path in sorted(found.items())]


def _absolute(given: Firmware) -> Firmware:
    code, template = (Path(file.path).absolute() for file in (given.code, given.template))
    for path in (code, template):
        if not path.is_file():
            raise UsageError(f"there is no firmware file {path}", stage="firmware")
    return msgspec.structs.replace(
        given, code=FirmwareFile(path=str(code)), template=FirmwareFile(path=str(template))
    )


def _read(path: Path, limit_bytes: int) -> bytes:
    with naming_errors(path, doing="read", stage="firmware"), path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise HostError(f"{path} is too large for what it should be", stage="firmware")
    return data
