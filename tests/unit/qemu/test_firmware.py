# SPDX-License-Identifier: Apache-2.0
"""Firmware and SMBIOS by value: which files are found, and what QEMU is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import HostError, MissingProgram, UsageError
from innkeeper.hypervisors.qemu.firmware import (
    descriptor_folders,
    find_firmware,
    place_variables,
    read_descriptor,
)
from innkeeper.hypervisors.qemu.plan import plan_qemu
from innkeeper.model.firmware import Firmware, FirmwareFile, GuestFirmware
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine


def descriptor(folder: Path, *features: str, board: str = "pc-q35-*") -> dict[str, object]:
    """A descriptor of two files in a folder, as Debian's package ovmf has them."""
    return {
        "description": f"UEFI from {folder.name}",
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(folder / "CODE.fd"), "format": "raw"},
            "nvram-template": {"filename": str(folder / "VARS.fd"), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", board]}],
        "features": ["acpi-s3", *features],
        "tags": [],
    }


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders for descriptors, with a pair of firmware files in each."""
    for name in ("own", "packaged"):
        (tmp_path / name).mkdir()
        for file in ("CODE.fd", "VARS.fd"):
            (tmp_path / name / file).write_bytes(name.encode())
    return tmp_path / "own", tmp_path / "packaged"


def test_the_first_fitting_descriptor_wins(folders: tuple[Path, Path]) -> None:
    own, packaged = folders
    for name, value in {
        "10-damaged.json": "{",
        "20-secure.json": json.dumps(descriptor(packaged, "secure-boot", "requires-smm")),
        "30-other-board.json": json.dumps(descriptor(packaged, board="microvm")),
        "40-gone.json": json.dumps(descriptor(packaged / "gone")),
        "60-plain.json": json.dumps(descriptor(packaged)),
        "70-late.json": json.dumps(descriptor(own)),
    }.items():
        (packaged / name).write_text(value)
    found = find_firmware("uefi", folders)
    assert found is not None
    assert found.code == FirmwareFile(path=str(packaged / "CODE.fd"))
    assert found.description == "UEFI from packaged"
    # A file of the administrator's masks the package's of the same name.
    (own / "60-plain.json").write_text(json.dumps(descriptor(own)))
    masked = find_firmware("uefi", folders)
    assert masked is not None
    assert masked.template == FirmwareFile(path=str(own / "VARS.fd"))
    (own / "60-plain.json").write_text("")
    (own / "70-late.json").write_text("")
    with pytest.raises(MissingProgram):
        find_firmware("uefi", folders)


def test_firmware_that_is_missing_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(MissingProgram) as caught:
        find_firmware("uefi", [tmp_path / "nothing"])
    assert "apt-get install ovmf" in caught.value.fix
    with pytest.raises(UsageError, match="no firmware file"):
        find_firmware(f"{tmp_path}/a:{tmp_path}/b")
    assert find_firmware("default") is None


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"mapping": 3}', "", '{"interface-types": 1}'])
def test_descriptors_that_make_no_sense_describe_nothing(text: str) -> None:
    assert read_descriptor(text.encode()) is None


def test_folders_in_their_order() -> None:
    assert descriptor_folders({"HOME": "/home/a"}) == (
        Path("/home/a/.config/qemu/firmware"),
        Path("/etc/qemu/firmware"),
        Path("/usr/share/qemu/firmware"),
    )
    assert descriptor_folders({"XDG_CONFIG_HOME": "/x"})[0] == Path("/x/qemu/firmware")


def guest_firmware(folder: Path) -> GuestFirmware:
    return GuestFirmware(
        firmware=Firmware(
            code=FirmwareFile(path="/fw/CODE,4M.fd"),
            template=FirmwareFile(path=str(folder / "VARS.fd")),
            description="UEFI",
        ),
        variables=str(folder / "own.fd"),
    )


def test_uefi_is_two_flash_devices_on_q35_and_the_kernel_with_its_stub(
    image: Image, host: HostFacts, tmp_path: Path
) -> None:
    firmware = guest_firmware(tmp_path)
    image = msgspec.structs.replace(image, modules=(*image.modules, "efivarfs"))
    plan = plan_qemu(Machine(name="box", firmware="uefi"), image, host, firmware=firmware)
    assert (plan.machine_type, plan.machine_reason) == ("q35", "microvm has no UEFI firmware")
    values = [json.loads(plan.argv[i + 1]) for i, arg in enumerate(plan.argv) if arg == "-blockdev"]
    assert values == [
        {
            "driver": "raw",
            "node-name": "uefi-code",
            "read-only": True,
            "file": {"driver": "file", "filename": "/fw/CODE,4M.fd", "read-only": True},
        },
        {
            "driver": "raw",
            "node-name": "uefi-vars",
            "read-only": False,
            "file": {"driver": "file", "filename": f"{tmp_path}/own.fd", "read-only": False},
        },
    ]
    assert "pflash0=uefi-code,pflash1=uefi-vars" in plan.argv
    assert plan.argv[plan.argv.index("-kernel") + 1] == image.kernel_source
    assert "inn.modules=virtio_pci,vmw_vsock_virtio_transport,efivarfs" in plan.cmdline


def test_variables_are_copied_once(tmp_path: Path) -> None:
    firmware = guest_firmware(tmp_path)
    with pytest.raises(HostError):
        place_variables(firmware)
    (tmp_path / "VARS.fd").write_bytes(b"template")
    place_variables(firmware)
    own = tmp_path / "own.fd"
    assert (own.read_bytes(), own.stat().st_mode & 0o777) == (b"template", 0o600)
    own.write_bytes(b"written by the guest")
    place_variables(firmware)
    assert own.read_bytes() == b"written by the guest"


def test_oem_strings_need_a_board_with_smbios(image: Image, host: HostFacts) -> None:
    plan = plan_qemu(Machine(name="box", oem_strings=("a,b", "c d")), image, host)
    assert (plan.machine_type, plan.machine_reason) == ("q35", "microvm has no OEM strings")
    smbios = [plan.argv[i + 1] for i, arg in enumerate(plan.argv) if arg == "-smbios"]
    assert smbios == ["type=11,value=a,,b", "type=11,value=c d"]
    assert plan_qemu(Machine(name="box"), image, host).machine_reason == "the quickest to boot"


def test_arguments_for_qemu_come_last(image: Image, host: HostFacts) -> None:
    plan = plan_qemu(Machine(name="box", qemu_args=("-device", "edu")), image, host)
    assert plan.argv[-4:] == ("-append", plan.cmdline, "-device", "edu")


@pytest.mark.parametrize(
    ("values", "brief"),
    [
        ({"firmware": "bios"}, "'bios' is no firmware"),
        ({"firmware": "code:"}, "no firmware"),
        ({"oem_strings": ("",)}, "no OEM string"),
        ({"oem_strings": ("a\nb",)}, "no OEM string"),
        ({"oem_strings": ("a",) * 256}, "256 OEM strings"),
        ({"qemu_args": ("-daemonize",)}, "lose it"),
        ({"qemu_args": ("--S",)}, "never start"),
        ({"qemu_args": ("-serial", "fd=<fd:qmp>")}, "no argument for QEMU"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, object], brief: str) -> None:
    with pytest.raises(UsageError, match=brief):
        Machine(name="box", **values)  # type: ignore[arg-type]
