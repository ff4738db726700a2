# SPDX-License-Identifier: Apache-2.0
"""Kernels for a bundle: a file, its modules, and what of them a guest needs before its root."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from innkeeper.errors import ImageError
from innkeeper.images.cpio import Archive
from innkeeper.images.kernel import check_kernel
from innkeeper.images.modules import Module, ModuleTree, folder_tree, modules_dep, select_modules
from innkeeper.images.source import WANTED_MODULES, check_drivers
from innkeeper.model.bundle import RootType, StoredKernel
from innkeeper.system.files import naming_errors, write_new

# Beside what the tiny image has: file systems a root or a disk may have, layers, shares.
_WANTED = (
    *WANTED_MODULES,
    *("erofs", "squashfs", "ext4", "btrfs", "overlay", "fuse", "virtiofs"),
    *("9p", "9pnet_fd", "9pnet_virtio", "virtio_pmem", "nd_pmem"),
)


@dataclass(frozen=True)
class KernelFile:
    """A kernel to be stored.

    :ivar modules: None where there are none, and all that is needed is built in.
    """

    flavour: str
    path: Path
    modules: ModuleTree | None


def find_kernels(tree: Path) -> list[KernelFile]:
    """The kernels in a root's /boot with their modules, the newest first.

    :raise ImageError: a file in /boot is not a kernel for x86-64.
    """
    found = []
    for path in sorted(tree.glob("boot/vmlinuz-*"), key=lambda path: _order(path.name)):
        if path.is_file() and not path.is_symlink():
            release = path.name.removeprefix("vmlinuz-")
            folder = modules_below(tree, release)
            modules = folder_tree(folder, release) if folder is not None else None
            found.append(KernelFile(flavour_of(release), path, modules))
    return found[::-1]


def _order(name: str) -> list[tuple[int, str]]:
    parts = name.replace("-", ".").split(".")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def flavour_of(release: str) -> str:
    """What a kernel is chosen by: the end of Debian's releases, else "default"."""
    for flavour in ("cloud", "rt"):
        if release.endswith(f"-{flavour}-amd64"):
            return flavour
    return "amd64" if release.endswith("-amd64") else "default"


def modules_below(tree: Path, release: str) -> Path | None:
    """The folder of a kernel's modules in a root, or None."""
    for base in ("usr/lib/modules", "lib/modules"):
        folder = tree / base / release
        if folder.is_dir() and folder.resolve().is_relative_to(tree.resolve()):
            return folder
    return None


def store_kernels(
    kernels: Iterable[KernelFile], folder: Path, *, root_type: RootType | None
) -> tuple[StoredKernel, ...]:
    """Write kernels and their modules into a bundle in the making.

    :param root_type: a driver for it has to be there; None without a root.
    :raise ImageError: a file is not a kernel, or a driver is missing; it is named.
    """
    stored: list[StoredKernel] = []
    for kernel in kernels:
        if kernel.flavour in (other.flavour for other in stored):
            continue
        suffix = f"-{kernel.flavour}" if stored else ""
        stored.append(_store(kernel, folder, suffix, root_type))
    return tuple(stored)


def _store(
    kernel: KernelFile, folder: Path, suffix: str, root_type: RootType | None
) -> StoredKernel:
    info = check_kernel(kernel.path)
    modules: list[Module] = []
    modules_file = ""
    lacks: tuple[str, ...] = ()
    if kernel.modules is not None:
        release = info.release or kernel.modules.release
        check_root_drivers(kernel.modules, root_type)
        wanted = (*_WANTED, *((root_type,) if root_type else ()))
        modules = select_modules(kernel.modules, wanted)
        lacks = kernel.modules.lacking(wanted)
        modules_file = f"modules{suffix}.cpio"
        write_new(folder / modules_file, modules_archive(release, modules), 0o644)
    name = f"vmlinuz{suffix}"
    with naming_errors(folder / name, doing="write", stage="image"):
        shutil.copyfile(kernel.path, folder / name)
    return StoredKernel(
        flavour=kernel.flavour,
        release=info.release,
        file=name,
        modules_file=modules_file,
        modules=tuple(module.name for module in modules),
        lacks=lacks,
    )


def check_root_drivers(tree: ModuleTree, root_type: RootType | None) -> None:
    """See that a kernel can be reached and can mount a root of this type.

    :raise ImageError: a driver is neither a module nor built in; it is named.
    """
    check_drivers(tree)
    if root_type is None or not tree.builtin:
        return
    have = tree.builtin | tree.paths.keys()
    for driver in ("virtio_blk", root_type):
        if driver not in have:
            raise ImageError(
                f"kernel {tree.release} has no driver {driver}, which the root needs",
                stage="kernel",
                fix="choose another --root-format or another kernel",
            )


def modules_archive(release: str, modules: Iterable[Module]) -> bytes:
    """An initramfs with modules and their `modules.dep`, the same bytes for the same modules."""
    archive = Archive()
    folder = f"lib/modules/{release}"
    modules = tuple(modules)
    for module in modules:
        archive.file(f"{folder}/{module.path}", module.data)
    archive.file(f"{folder}/modules.dep", modules_dep(modules))
    return archive.to_bytes()
