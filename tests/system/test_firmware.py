# SPDX-License-Identifier: Apache-2.0
"""What a guest finds below its kernel: UEFI with variables of its own, SMBIOS, added devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Inn

VARIABLE = "/sys/firmware/efi/efivars/Kept-8e2f6a5c-0b5f-4c6e-9a57-0123456789ab"
# Non-volatile, for boot services and at run time; then the content.
WRITE = rf"printf '\007\000\000\000kept' > {VARIABLE}"
READ = f"tail -c +5 {VARIABLE}"


@pytest.fixture
def machine(inn: Inn) -> Iterator[str]:
    assert inn("create", "efi", "--firmware", "uefi", "--oem-string", "one, two").code == 0
    yield "efi"
    assert inn("rm", "-f", "efi").code == 0


def oem_strings(table: bytes) -> list[bytes]:
    """The strings of the tables of type 11 (SMBIOS reference, 6.1.3 and 7.12)."""
    found: list[bytes] = []
    at = 0
    while at < len(table):
        kind, length = table[at], table[at + 1]
        end = table.index(b"\0\0", at + length)
        if kind == 11:
            found += table[at + length : end].split(b"\0")
        at = end + 2
    return found


def test_a_variable_outlives_the_guest_that_wrote_it(
    inn: Inn, machine: str, state_dir: Path
) -> None:
    started = inn("start", machine)
    assert started.code == 0, started.error
    done = inn("exec", machine, "sh", "-c", f"{WRITE} && {READ}")
    assert (done.code, done.stdout) == (0, b"kept"), done.error
    table = inn("exec", machine, "cat", "/sys/firmware/dmi/tables/DMI").stdout
    assert b"one, two" in oem_strings(table)
    variables = state_dir / "machines" / machine / "uefi-vars.fd"
    assert variables.stat().st_mode & 0o777 == 0o600

    assert inn("stop", machine).code == 0
    assert inn("start", machine).code == 0
    assert inn("exec", machine, "sh", "-c", READ).stdout == b"kept"
    assert inn("rm", "-f", machine).code == 0
    assert not variables.exists()
    # The next machine of this name begins anew; the fixture removes it.
    assert inn("create", machine).code == 0


def test_the_plan_says_why_the_machine_is_not_the_quickest(inn: Inn, runtime_dir: Path) -> None:
    shown = inn("plan", "run", "--oem-string", "x", "--firmware", "uefi", "--name", "efi").stdout
    assert b"q35, 1 CPU, 512M memory (memfd): microvm has no UEFI firmware" in shown
    # Those of a run are in its runtime folder, which goes with it.
    assert f"{runtime_dir}/efi/uefi-vars.fd".encode() in shown


def test_strings_and_arguments_of_a_run(inn: Inn) -> None:
    done = inn(
        *("run", "--oem-string", "first", "--oem-string", "second"),
        *("--qemu-arg=-device", "--qemu-arg=edu"),
        *(
            "--",
            "sh",
            "-c",
            "cat /sys/bus/pci/devices/*/device >&2; cat /sys/firmware/dmi/tables/DMI",
        ),
    )
    assert done.code == 0, done.error
    assert oem_strings(done.stdout)[:2] == [b"first", b"second"]
    assert "0x11e8" in done.error  # QEMU's docs/specs/edu


def test_what_cannot_be_is_said_before_anything_starts(inn: Inn, tmp_path: Path) -> None:
    broken = inn("run", "--firmware", f"{tmp_path}/CODE:{tmp_path}/VARS", "--", "true")
    assert broken.code == 2
    assert "there is no firmware file" in broken.error
    plan = json.loads(inn("plan", "run", "--format", "json").stdout)["plan"]
    bare = inn("run", "--firmware", "uefi", "--kernel", plan["image"]["kernel"], "--", "true")
    assert bare.code == 125
    assert "it has no EFI stub" in bare.error
    refused = inn("run", "--qemu-arg=-no-such-option", "--", "true")
    assert refused.code == 125
    assert "no-such-option" in refused.error
