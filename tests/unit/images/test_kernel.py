# SPDX-License-Identifier: Apache-2.0
"""Kernel and initramfs files: good ones, wrong ones and damaged ones."""

from __future__ import annotations

import bz2
import contextlib
import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innkeeper.errors import ImageError
from innkeeper.images.kernel import (
    KernelInfo,
    check_efi_stub,
    check_initrd,
    check_kernel,
    extract_vmlinux,
)

Make = Callable[..., bytes]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "file"
        path.write_bytes(data)
        return path

    return write


Write = Callable[[bytes], Path]


def with_payload(image: bytes, payload: bytes) -> bytes:
    """The bzImage with another compressed kernel."""
    changed = bytearray(image[: 2 * 512 + 16]) + payload
    struct.pack_into("<I", changed, 0x24C, len(payload))
    return bytes(changed)


def test_a_bzimage(write: Write, make_bzimage: Make, kernel_release: str) -> None:
    assert check_kernel(write(make_bzimage())) == KernelInfo("bzimage", kernel_release, "gzip")


def test_an_elf_kernel(write: Write, make_elf: Make, pvh_note: bytes) -> None:
    data = make_elf(notes=pvh_note) + b"Linux version 6.9.1-own (me) #1"
    assert check_kernel(write(data)) == KernelInfo("elf", "6.9.1-own", "")


def test_the_kernel_inside_comes_out(
    write: Write, make_bzimage: Make, make_elf: Make, pvh_note: bytes
) -> None:
    vmlinux = make_elf({".text": os.urandom(5000)}, notes=pvh_note)
    assert extract_vmlinux(write(make_bzimage(vmlinux))) == vmlinux


@pytest.mark.parametrize(
    "argv", [["xz"], ["lzma"], ["bzip2"], ["lz4", "-lc"], ["zstd", "-qc"]], ids=lambda argv: argv[0]
)
def test_every_compression(
    argv: list[str], write: Write, make_bzimage: Make, make_elf: Make, pvh_note: bytes
) -> None:
    vmlinux = make_elf({".text": os.urandom(5000)}, notes=pvh_note)
    in_python = {
        "xz": lzma.compress,
        "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
        "bzip2": bz2.compress,
    }
    if argv[0] in in_python:
        stream = in_python[argv[0]](vmlinux)
    elif shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    else:
        stream = subprocess.run(argv, input=vmlinux, capture_output=True, check=True).stdout
    image = with_payload(make_bzimage(), stream + struct.pack("<I", len(vmlinux)))
    assert check_kernel(write(image)).compression == argv[0]
    assert extract_vmlinux(write(image)) == vmlinux


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
@pytest.mark.parametrize("program", ["python", "zstd"])
def test_a_kernel_that_expands_without_end(program: str, write: Write, make_bzimage: Make) -> None:
    bomb = bytes(64 << 20)
    if program == "zstd":
        argv = ["zstd", "-qc"]
        stream = subprocess.run(argv, input=bomb, capture_output=True, check=True).stdout
    else:
        stream = bz2.compress(bomb)
    for claimed in (1 << 20, len(bomb)):
        image = with_payload(make_bzimage(), stream + struct.pack("<I", claimed))
        with pytest.raises(ImageError, match="expands to more"):
            extract_vmlinux(write(image), limit=32 << 20)


def test_a_kernel_without_pvh_is_not_taken_out(
    write: Write, make_bzimage: Make, make_elf: Make
) -> None:
    with pytest.raises(ImageError, match="PVH"):
        extract_vmlinux(write(make_bzimage(make_elf())))


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (b"#!/bin/sh\n" * 100, "HdrS"),
        (b"\x1f\x8b" + bytes(2000), "gzip"),
        (b"short", "5 bytes"),
        (b"\x7fELF" + bytes(2000), "not for 64-bit"),
    ],
)
def test_files_that_are_no_kernel(data: bytes, evidence: str, write: Write) -> None:
    with pytest.raises(ImageError, match="not a kernel") as caught:
        check_kernel(write(data))
    assert evidence in " ".join(caught.value.evidence)
    assert "vmlinuz" in caught.value.fix


def test_an_elf_program_is_no_kernel(write: Write, make_elf: Make) -> None:
    with pytest.raises(ImageError) as caught:
        check_kernel(write(make_elf()))
    assert "CONFIG_PVH" in caught.value.evidence[0]


def test_a_bzimage_that_is_cut_off(write: Write, make_bzimage: Make) -> None:
    with pytest.raises(ImageError) as caught:
        check_kernel(write(make_bzimage()[:-10]))
    assert "cut off" in caught.value.evidence[0]


@pytest.mark.parametrize("check", [check_kernel, check_initrd])
def test_files_that_cannot_be_read(
    check: Callable[[Path], object], tmp_path: Path, write: Write
) -> None:
    for path, words in (
        (tmp_path / "none", "there is no"),
        (tmp_path, "is a folder"),
        (write(b""), "is empty"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            check(path)
        assert caught.value.fix


def test_files_without_permission(write: Write) -> None:
    path = write(b"x")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match="no permission") as caught:
            check_kernel(path)
    finally:
        os.seteuid(user)
    assert f"chmod a+r {path}" in caught.value.fix


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"070701" + b"0" * 104, "cpio"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"\x02\x21\x4c\x18", "lz4"),
    ],
)
def test_initramfs_files(data: bytes, kind: str, write: Write) -> None:
    assert check_initrd(write(data)) == kind


def test_a_file_that_is_no_initramfs(write: Write) -> None:
    with pytest.raises(ImageError, match="not an initramfs"):
        check_initrd(write(b"hello, world"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    changes=st.dictionaries(st.integers(0, 0x400), st.integers(0, 255), max_size=20),
    end=st.integers(0, 1400),
)
def test_no_damage_gives_another_error(
    changes: dict[int, int], end: int, make_bzimage: Make, make_elf: Make, pvh_note: bytes
) -> None:
    for whole in (make_bzimage(), make_elf({".x": b"y"}, notes=pvh_note)):
        data = bytearray(whole)
        for at, value in changes.items():
            if at < len(data):
                data[at] = value
        with tempfile.NamedTemporaryFile() as file:
            file.write(data[:end] if end < 1200 else data)
            file.flush()
            for read in (check_kernel, extract_vmlinux):
                with contextlib.suppress(ImageError):
                    read(Path(file.name))


def test_a_kernel_that_uefi_cannot_start(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(ImageError, match="no EFI stub"):
        check_efi_stub(kernel)
    kernel.write_bytes(b"MZ" + bytes(62))
    check_efi_stub(kernel)
