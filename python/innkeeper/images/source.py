# SPDX-License-Identifier: Apache-2.0
"""Where the tiny image's kernel comes from: Debian's package, or a file of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from innkeeper.errors import ImageError
from innkeeper.images.store import Inputs, KernelNote
from innkeeper.system.files import write_new

# What only a build needs is imported there: most starts find the image finished.
if TYPE_CHECKING:
    from innkeeper.images.modules import Module, ModuleTree

# The drivers of the devices that every guest may get. With what they need they have 0.8 MB
# in Debian's kernel 6.1; what only some machines need is added for those.
WANTED_MODULES = (
    "virtio_mmio",
    "virtio_pci",
    "vmw_vsock_virtio_transport",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "virtio_console",
    "virtio_balloon",
    "efivarfs",
)

# For what only some machines have; a note of a user's kernel covers these too.
ALL_MODULES = (*WANTED_MODULES, *("virtiofs", "overlay", "9p", "9pnet_fd", "ext4", "btrfs"))

# What a guest gets only when it is asked for. A start that needs one which the kernel
# lacks is refused.
ASKED_DRIVERS = (*ALL_MODULES, "9pnet_virtio")

# One of each group has to be there, as a module or built in.
_REQUIRED: tuple[tuple[str, ...], ...] = (
    ("vmw_vsock_virtio_transport",),
    ("virtio_mmio", "virtio_pci"),
)

_MIB = 1 << 20
# The files of a modules folder that change when modules are installed into it.
_INDEX_FILES = ("modules.dep", "modules.builtin")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Placed:
    """A kernel ready for a bundle; names are relative to the bundle, or absolute."""

    release: str
    modules: Sequence[Module]
    kernel: str
    kernel_source: str
    lacks: tuple[str, ...] = ()


class KernelSource(Protocol):
    """A kernel that an image can be built with."""

    def inputs(self) -> dict[str, Path]:
        """The files that decide what comes out, by role."""

    def place(self, folder: Path, report: Report) -> Placed:
        """Find its modules, and write into `folder` what has to be there of the kernel."""


class PackagedKernel:
    """The kernel in a Debian package."""

    def __init__(self, package: Path, *, drivers: Sequence[str] = WANTED_MODULES) -> None:
        self._package = package
        self._drivers = drivers

    def inputs(self) -> dict[str, Path]:
        """The package; all comes from it."""
        return {"package": self._package}

    def place(self, folder: Path, report: Report) -> Placed:
        """Unpack it; the ELF kernel is used where it can be had."""
        from innkeeper.images.modules import select_modules
        from innkeeper.images.package import unpack_package

        report(f"unpacking {self._package.stem}")
        content = unpack_package(self._package)
        check_drivers(content.modules)
        vmlinuz = folder / "vmlinuz"
        write_new(vmlinuz, content.vmlinuz, 0o644)
        return Placed(
            content.release,
            select_modules(content.modules, self._drivers),
            place_elf(vmlinuz, folder, report) or vmlinuz.name,
            vmlinuz.name,
            content.modules.lacking(ASKED_DRIVERS),
        )


class UserKernel:
    """A kernel file that the user gave, with the modules that are installed for it.

    :raise ImageError: the file is no kernel.
    """

    def __init__(
        self, path: Path, inputs: Inputs, *, drivers: Sequence[str] = WANTED_MODULES
    ) -> None:
        self._drivers = drivers
        # By its real name: a link such as /vmlinuz does not tell where the modules are.
        self._path = path.resolve()
        self._inputs = inputs
        note = inputs.kernel_note(self._path)
        if note is None or note.folder != _folder_text(self._path, note.release):
            note = self._look()
            inputs.note_kernel(self._path, note)
        self._note = note

    def _look(self) -> KernelNote:
        from innkeeper.images.kernel import check_kernel
        from innkeeper.images.modules import folder_tree, select_modules

        release = check_kernel(self._path).release
        watched = [self._path]
        files: tuple[str, ...] = ()
        folder = modules_folder(self._path, release)
        if folder is not None:
            tree = folder_tree(folder, release)
            files = tuple(module.source for module in select_modules(tree, ALL_MODULES))
            watched += [folder / name for name in _INDEX_FILES if (folder / name).is_file()]
        watched += [folder / name for name in files if folder is not None]
        return KernelNote(
            {str(path): self._inputs.digest(path) for path in watched},
            release,
            "" if folder is None else str(folder),
        )

    def inputs(self) -> dict[str, Path]:
        """The kernel, its modules and their index, by path: the image points to the file."""
        return {f"kernel {path}": Path(path) for path in self._note.watched}

    def place(self, folder: Path, report: Report) -> Placed:
        """Use the file where it is; only an ELF kernel taken out of it goes into the bundle."""
        from innkeeper.images.kernel import check_kernel
        from innkeeper.images.modules import folder_tree, select_modules

        info = check_kernel(self._path)
        modules: list[Module] = []
        lacks: tuple[str, ...] = ()
        if self._note.folder:
            tree = folder_tree(Path(self._note.folder), info.release)
            if tree.builtin:
                check_drivers(tree)
            modules = select_modules(tree, self._drivers)
            lacks = tree.lacking(ASKED_DRIVERS)
        if not modules:
            report(
                f"no modules found for kernel {info.release or self._path.name}; "
                "its virtio drivers have to be built in"
            )
        elf = None if info.kind == "elf" else place_elf(self._path, folder, report)
        kernel = elf or str(self._path)
        return Placed(info.release or "unknown", modules, kernel, str(self._path), lacks)


def place_elf(vmlinuz: Path, folder: Path, report: Report) -> str | None:
    """Write the ELF kernel inside a bzImage into `folder`; its name, or None where there is none."""
    from innkeeper.images.kernel import try_extract_vmlinux

    vmlinux, why = try_extract_vmlinux(vmlinuz)
    if vmlinux is None:
        report(f"the kernel will expand itself at each start: {why}")
        return None
    report(f"expanding the kernel ({len(vmlinux) / _MIB:.1f} MiB)")
    write_new(folder / "kernel", vmlinux, 0o644)
    return "kernel"


def modules_folder(kernel: Path, release: str) -> Path | None:
    """Where the modules of a kernel file are: beside its folder, or installed on this host."""
    if not release or "/" in release or release.startswith("."):
        return None
    for base in (kernel.parent.parent, Path("/")):
        folder = base / "lib" / "modules" / release
        if (folder / "modules.builtin").is_file() or (folder / "kernel").is_dir():
            return folder
    return None


def _folder_text(kernel: Path, release: str) -> str:
    folder = modules_folder(kernel, release)
    return "" if folder is None else str(folder)


def check_drivers(tree: ModuleTree) -> None:
    """See that a kernel has the drivers without which no guest can be reached.

    :raise ImageError: one is neither a module nor built in.
    """
    have = tree.builtin | tree.paths.keys()
    for group in _REQUIRED:
        if not have.intersection(group):
            raise ImageError(
                f"kernel {tree.release} has no driver {' or '.join(group)}",
                stage="image",
                fix="take a kernel with virtio and vsock, such as Debian's linux-image-cloud-amd64",
            )
