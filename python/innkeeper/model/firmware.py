# SPDX-License-Identifier: Apache-2.0
"""What a guest's board runs before its kernel: nothing of ours to choose, or UEFI."""

from __future__ import annotations

import msgspec

from innkeeper.errors import UsageError

# More is no text for people or for systemd's credentials; QEMU puts all into one table.
OEM_STRING_LIMIT_BYTES = 4096
OEM_STRINGS_LIMIT = 255

# Arguments that take the guest away from its keeper, with what becomes of it.
_REFUSED_ARGS = {
    "daemonize": "its keeper would lose it",
    "S": "it would never start",
    "preconfig": "it would never start",
    "incoming": "it would wait for another",
}


class FirmwareFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file for a flash device.

    :ivar format: "raw" or "qcow2", as QEMU's block drivers are called.
    """

    path: str
    format: str = "raw"


class Firmware(msgspec.Struct, frozen=True, kw_only=True):
    """UEFI firmware as installed: its code, and what a new machine's variables are copied from."""

    code: FirmwareFile
    template: FirmwareFile
    description: str


class GuestFirmware(msgspec.Struct, frozen=True, kw_only=True):
    """The firmware of one guest.

    :ivar variables: the guest's own file of UEFI variables; made from the
        template where it is missing.
    """

    firmware: Firmware
    variables: str


def parse_firmware(text: str) -> Firmware | None:
    """The files of "CODE:VARIABLES"; None for "default" and "uefi".

    :raise UsageError: it is neither.
    """
    if text in ("default", "uefi"):
        return None
    code, separator, template = text.partition(":")
    if not (separator and code and template):
        raise UsageError(
            f"{text!r} is no firmware",
            fix="give default, uefi, or CODE:VARIABLES (two files, as OVMF_CODE.fd:OVMF_VARS.fd)",
        )
    return Firmware(
        code=FirmwareFile(path=code), template=FirmwareFile(path=template), description="given"
    )


def check_oem_strings(strings: tuple[str, ...]) -> None:
    """Refuse what an SMBIOS table cannot hold.

    :raise UsageError: one is empty, too long or not printable, or there are too many.
    """
    if len(strings) > OEM_STRINGS_LIMIT:
        raise UsageError(
            f"{len(strings)} OEM strings", fix=f"give at most {OEM_STRINGS_LIMIT}: SMBIOS counts so"
        )
    for text in strings:
        if not text or not text.isprintable() or len(text.encode()) > OEM_STRING_LIMIT_BYTES:
            raise UsageError(
                f"{text[:40]!r} is no OEM string",
                fix=f"give 1 to {OEM_STRING_LIMIT_BYTES} bytes of printable text",
            )


def check_qemu_args(args: tuple[str, ...]) -> None:
    """Refuse arguments for QEMU with which no guest could be kept.

    :raise UsageError: one of them is.
    """
    for arg in args:
        why = _REFUSED_ARGS.get(arg.removeprefix("-").removeprefix("-").partition("=")[0])
        if arg.startswith("-") and why is not None:
            raise UsageError(f"a guest cannot be started with {arg}: {why}", fix="leave it out")
        if "\0" in arg or "<fd:" in arg:
            raise UsageError(f"{arg!r} is no argument for QEMU", fix="leave it out")
