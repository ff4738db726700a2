# SPDX-License-Identifier: Apache-2.0
"""What a kernel file and an initramfs file are, and the ELF kernel inside a bzImage.

The header of a bzImage is in the kernel's Documentation/arch/x86/boot.rst. A bzImage
expands itself when it starts, which costs most of a second where the CPU is emulated;
the ELF kernel inside, booted through its PVH entry, has that behind it.
"""

from __future__ import annotations

import mmap
import re
import stat
import struct
from pathlib import Path
from typing import Literal

import msgspec

from innkeeper.errors import ImageError, MissingProgram
from innkeeper.images.compression import compression_of, decompress
from innkeeper.images.elf import MAGIC, Elf

# Offsets in the setup header (boot.rst, "Details of Header Fields").
_SETUP_SECTORS = 0x1F1
_BOOT_FLAG = 0x1FE
_HEADER_MAGIC = 0x202
_VERSION = 0x206
_KERNEL_VERSION = 0x20E
_PAYLOAD = 0x248
_HEADER_END = 0x250
_SECTOR = 512
_SETUP_SECTORS_DEFAULT = 4
# From this version of the protocol on, the header tells where the payload is.
_VERSION_WITH_PAYLOAD = 0x0208

_RELEASE = re.compile(rb"[!-~]{1,128}")
_BANNER = re.compile(rb"Linux version ([!-~]{1,128}) ")
_SIZE = struct.Struct("<I")

VMLINUX_MAXIMUM_BYTES = 512 << 20
_KERNEL_MAXIMUM_BYTES = 1 << 30

_CPIO_MAGICS = (b"070701", b"070702")
_GIVE_KERNEL = "give a bzImage (such as /boot/vmlinuz-*) or a vmlinux with a PVH entry"


class KernelInfo(msgspec.Struct, frozen=True):
    """What the header of a kernel file says.

    :ivar release: such as "6.1.0-56-cloud-amd64"; "" where it cannot be told.
    :ivar compression: of the kernel inside a bzImage; "" where there is none.
    """

    kind: Literal["bzimage", "elf"]
    release: str
    compression: str


def check_kernel(path: Path) -> KernelInfo:
    """Look at a kernel file as far as is needed to say that QEMU can boot it.

    :raise ImageError: it is missing, unreadable, or not a kernel for x86-64.
    """
    with _open(path, "kernel") as view:
        if view[:4] == MAGIC:
            return _check_elf(view, path)
        return _check_bzimage(view, path)


def check_initrd(path: Path) -> str:
    """Look at the first bytes of an initramfs file.

    :return: "cpio" or the name of its compression.
    :raise ImageError: it is missing, unreadable, or no initramfs.
    """
    with _open(path, "initrd") as view:
        start = view[:16]
    if start.startswith(_CPIO_MAGICS):
        return "cpio"
    kind = compression_of(start)
    if kind is None:
        raise ImageError(
            f"{path} is not an initramfs",
            stage="image",
            evidence=(f"it begins with {start[:8].hex(' ')}",),
            fix="give a cpio archive (format newc), plain or compressed",
        )
    return kind


def check_efi_stub(path: Path) -> None:
    """Refuse a kernel that UEFI cannot start: its EFI stub makes it a PE file.

    :raise ImageError: it has none.
    """
    with _open(path, "kernel") as view:
        start = view[:2]
    if start != b"MZ":
        raise ImageError(
            f"UEFI cannot start {path}: it has no EFI stub",
            stage="image",
            fix="give a bzImage built with CONFIG_EFI_STUB (Debian's is), or leave out --firmware",
        )


def _open(path: Path, what: str) -> mmap.mmap:
    """The file's bytes; no more of them are read than are looked at."""
    option = f"--{what}"
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise ImageError(
                f"the {what} file {path} is not a regular file",
                stage="image",
                fix=f"give a file with {option}",
            )
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as exc:
        raise ImageError(
            f"there is no {what} file {path}", stage="image", fix=f"look at the path after {option}"
        ) from exc
    except PermissionError as exc:
        raise ImageError(
            f"no permission to read the {what} file {path}",
            stage="image",
            fix=f"make it readable, for example: sudo chmod a+r {path}",
        ) from exc
    except IsADirectoryError as exc:
        raise ImageError(
            f"the {what} file {path} is a folder", stage="image", fix=f"give a file with {option}"
        ) from exc
    except ValueError as exc:
        raise ImageError(
            f"the {what} file {path} is empty", stage="image", fix="copy or build it again"
        ) from exc
    except OSError as exc:
        raise ImageError(
            f"cannot read the {what} file {path}: {exc.strerror}", stage="image"
        ) from exc


def _no_kernel(path: Path, why: str) -> ImageError:
    return ImageError(
        f"{path} is not a kernel for x86-64", stage="image", evidence=(why,), fix=_GIVE_KERNEL
    )


def _check_elf(view: mmap.mmap, path: Path) -> KernelInfo:
    try:
        pvh = Elf(view, str(path)).has_pvh_entry()
    except ImageError as exc:
        raise _no_kernel(path, exc.brief) from exc
    if not pvh:
        raise _no_kernel(path, "an ELF file without a PVH entry (CONFIG_PVH)")
    banner = _BANNER.search(view)
    return KernelInfo("elf", banner.group(1).decode() if banner else "", "")


def _check_bzimage(view: mmap.mmap | bytes, path: Path) -> KernelInfo:
    if len(view) < _HEADER_END:
        raise _no_kernel(path, f"only {len(view)} bytes long")
    if view[_BOOT_FLAG : _BOOT_FLAG + 2] != b"\x55\xaa" or (
        view[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS"
    ):
        kind = compression_of(view[:16])
        raise _no_kernel(path, f"it is {kind} data" if kind else "it has no boot header (HdrS)")
    (pointer,) = struct.unpack_from("<H", view, _KERNEL_VERSION)
    release = b""
    if pointer:
        # A NUL-terminated string: the release, a space, who built it and when.
        start = _SECTOR + pointer
        match = _RELEASE.match(view[start : start + 128])
        release = match.group() if match else b""
    try:
        start, end = _payload(view, path)
    except ImageError:
        return KernelInfo("bzimage", release.decode(), "")
    if end > len(view):
        raise _no_kernel(path, f"cut off: {len(view)} bytes, its header wants {end}")
    return KernelInfo("bzimage", release.decode(), compression_of(view[start : start + 16]) or "")


def _payload(view: mmap.mmap | bytes, path: Path) -> tuple[int, int]:
    """Where the compressed kernel begins and ends in a bzImage."""
    (version,) = struct.unpack_from("<H", view, _VERSION)
    if version < _VERSION_WITH_PAYLOAD:
        raise ImageError(
            f"the boot header of {path} is too old to find the kernel in it", stage="image"
        )
    sectors = view[_SETUP_SECTORS] or _SETUP_SECTORS_DEFAULT
    offset, length = struct.unpack_from("<II", view, _PAYLOAD)
    start = (sectors + 1) * _SECTOR + offset
    return start, start + length


def extract_vmlinux(path: Path, *, limit: int = VMLINUX_MAXIMUM_BYTES) -> bytes:
    """The uncompressed ELF kernel of a bzImage.

    :param limit: the most bytes that it may have.
    :raise ImageError: there is none to be had, or it has no PVH entry.
    :raise MissingProgram: a program to expand it is not installed.
    """
    with _open(path, "kernel") as view:
        if len(view) > _KERNEL_MAXIMUM_BYTES:
            raise ImageError(f"{path} is too large for a kernel", stage="image")
        _check_bzimage(view, path)
        start, end = _payload(view, path)
        payload = view[start:end]
    kind = compression_of(payload)
    if kind is None or len(payload) <= _SIZE.size:
        raise ImageError(f"the kernel in {path} is compressed in an unknown way", stage="image")
    # The last four bytes are the size of what comes out; gzip has them as its own.
    (size,) = _SIZE.unpack_from(payload, len(payload) - _SIZE.size)
    if size > limit:
        raise ImageError(f"the kernel in {path} expands to more than {limit} bytes", stage="image")
    stream = payload if kind == "gzip" else payload[: -_SIZE.size]
    vmlinux = decompress(stream, kind, limit=size)
    if len(vmlinux) != size:
        raise ImageError(
            f"the kernel in {path} is damaged",
            stage="image",
            evidence=(f"{len(vmlinux)} bytes came out of it, its end says {size}",),
        )
    if not Elf(vmlinux, f"the kernel in {path}").has_pvh_entry():
        raise ImageError(f"the kernel in {path} has no PVH entry", stage="image")
    return vmlinux


def try_extract_vmlinux(path: Path) -> tuple[bytes | None, str]:
    """The ELF kernel, or None and the reason; a bzImage boots all the same."""
    try:
        return extract_vmlinux(path), ""
    except MissingProgram as exc:
        return None, f"{exc.brief}; {exc.fix}"
    except ImageError as exc:
        return None, exc.brief
