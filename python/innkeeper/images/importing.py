# SPDX-License-Identifier: Apache-2.0
"""Making a bundle of what is there already: a folder, an archive, a disk, three files."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from innkeeper.errors import ImageError, UsageError
from innkeeper.images.bundles import finish_bundle, place_bundle
from innkeeper.images.inside import check_machine, init_of, no_tool, take_out
from innkeeper.images.making import building
from innkeeper.images.mapped import as_root, check_mapped, remove_owned
from innkeeper.images.modules import folder_tree
from innkeeper.images.phases import Phases
from innkeeper.images.roots import fill_up, make_root, read_head, root_type_of
from innkeeper.images.source import modules_folder
from innkeeper.images.sources import (
    KERNEL_FILE,
    ROOT_FILE,
    TOOLS_FILE,
    check_three,
    convert_qcow2,
    kind_of,
    take_partition,
)
from innkeeper.images.stored_kernels import (
    KernelFile,
    find_kernels,
    flavour_of,
    modules_below,
    store_kernels,
)
from innkeeper.model.bundle import TOOLS_AT, Bundle, RootType, is_tools_place
from innkeeper.model.recipe import RootFormat
from innkeeper.system.files import naming_errors, write_new
from innkeeper.system.sparse import copy_sparse
from innkeeper.system.watched import Failed, run_watched

# In place of a file: the kernel that the built-in image has.
DEBIAN_KERNEL = "debian"

_NAMESPACE = uuid.UUID("5b1f0a5e-1b3c-4a55-9a6f-2f6f5d1f9d10")


@dataclass(frozen=True)
class Import:
    """What an image is to be made of.

    :ivar root: a folder, an archive, a disk, a file system, or a folder with three files.
    :ivar kernel: a file, "debian", or "" for the root's own.
    :ivar modules: the folder of the kernel's modules; None seeks it beside the kernel.
    :ivar tools: a file with a read-only file system.
    :ivar tools_at: where a guest finds it.
    :ivar init: "agent" or a program of the root; "" takes the root's own where it has one.
    :ivar root_format: what is made of a folder or an archive.
    :ivar packages: where Debian's kernel package is kept.
    """

    root: Path
    packages: Path
    kernel: str = ""
    modules: Path | None = None
    tools: Path | None = None
    tools_at: str = TOOLS_AT
    init: str = ""
    root_format: RootFormat = "erofs"


@dataclass(frozen=True)
class _Root:
    """A root that is in the bundle, and where to look into it; None where nothing can."""

    name: str
    kind: RootType
    inside: Path | None


def import_image(
    images: Path, name: str, wanted: Import, *, phases: Phases, force: bool
) -> tuple[Bundle, bool]:
    """Make a bundle and put it in place; what it is made of stays as it is.

    :param images: the folder of bundles, `layout.images`.
    :param force: replace another image of this name.
    :return: the bundle; False when the very same one was there already.
    :raise ImageError: the root or the kernel cannot be used, or is for another machine.
    :raise HostError: a program or space is missing.
    """
    if not is_tools_place(wanted.tools_at):
        raise UsageError(
            f"{wanted.tools_at!r} is no place for the tools of a guest",
            stage="import",
            fix="give an absolute path of letters, digits and . _ + -",
        )
    kind = kind_of(wanted.root)
    if kind == "three files":
        check_three(wanted.root)
        wanted = _three(wanted)
    with building(images) as folder:
        with phases.phase("root", f"importing {name}: {kind}"):
            root = _take_root(wanted, kind_of(wanted.root), folder, name)
            if root.inside is not None:
                check_machine(root.inside, wanted.root.name)
        with phases.phase("kernels", f"importing {name}: kernels"):
            kernels = store_kernels(
                _kernels(wanted, root, folder, phases), folder, root_type=root.kind
            )
            init = wanted.init or (init_of(root.inside) if root.inside else "agent")
        with phases.phase("store", f"importing {name}: digests"):
            fill_up(folder / root.name)
            tools = _take_tools(wanted, folder)
            for left in ("tree", "inside", "package"):
                remove_owned(folder / left)
            bundle = Bundle(
                name=name,
                digest="",
                kernels=kernels,
                root=root.name,
                root_type=root.kind,
                init=init,
                tools="" if tools is None else f"tools.{tools}",
                tools_type=tools or "erofs",
                tools_at=wanted.tools_at,
                files=(),
                recipe={"imported_from": wanted.root.name, "kind": kind},
            )
            names = [path.name for path in folder.iterdir()]
            bundle = finish_bundle(folder, bundle, names)
            return bundle, place_bundle(images, folder, bundle, force=force)


def _three(wanted: Import) -> Import:
    return Import(
        root=wanted.root / ROOT_FILE,
        packages=wanted.packages,
        kernel=wanted.kernel or str(wanted.root / KERNEL_FILE),
        modules=wanted.modules,
        tools=wanted.tools or wanted.root / TOOLS_FILE,
        tools_at=wanted.tools_at,
        init=wanted.init,
        root_format=wanted.root_format,
    )


def _take_root(wanted: Import, kind: str, folder: Path, name: str) -> _Root:
    if kind in ("folder", "tar"):
        check_mapped()
        tree = wanted.root
        if kind == "tar":
            tree = folder / "tree"
            unpack_tar(wanted.root, tree)
        with naming_errors(wanted.root, doing="look at", stage="import"):
            epoch = int(wanted.root.stat().st_mtime)
        out = f"root.{wanted.root_format}"
        fs_uuid = str(uuid.uuid5(_NAMESPACE, name))
        make_root(wanted.root_format, tree, folder / out, fs_uuid=fs_uuid, epoch=epoch)
        return _Root(out, wanted.root_format, tree)
    root_type = _take_file(wanted.root, kind, folder)
    out = f"root.{root_type}"
    (folder / "raw").rename(folder / out)
    inside = folder / "inside"
    return _Root(out, root_type, inside if take_out(folder / out, root_type, inside) else None)


def _take_file(path: Path, kind: str, folder: Path) -> RootType:
    """Lay a raw file system into the bundle as `raw`."""
    raw, disk = folder / "raw", path
    if kind == "qcow2":
        disk = folder / "disk"
        convert_qcow2(path, disk)
        kind = kind_of(disk)
    if kind == "disk":
        root_type = take_partition(disk, raw)
        (folder / "disk").unlink(missing_ok=True)
        return root_type
    if disk.parent == folder:
        disk.rename(raw)
    else:
        copy_sparse(disk, raw)
    found = root_type_of(read_head(raw))
    if found is None:
        raise ImageError(
            f"{path} has neither partitions nor a file system that a root may have",
            stage="import",
        )
    return found


def unpack_tar(archive: Path, tree: Path) -> None:
    """Unpack an archive with the owners that it says; nothing of it lands outside of the tree.

    :raise ImageError: it is damaged.
    """
    tree.mkdir()
    keep = ("--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*")
    # A guest has its own /dev, and a user may not make devices.
    without = ("--exclude=./dev/*", "--exclude=dev/*")
    argv = ["tar", "-x", *keep, *without, "-C", str(tree), "-f", str(archive.absolute())]
    try:
        run_watched(as_root(argv), stage="import")
    except Failed as exc:
        raise ImageError(
            f"{archive} cannot be unpacked",
            stage="import",
            evidence=exc.evidence,
            fix="look whether it is complete, and whether there is space",
        ) from exc


def _kernels(wanted: Import, root: _Root, folder: Path, phases: Phases) -> list[KernelFile]:
    if wanted.kernel == DEBIAN_KERNEL:
        return [_debian_kernel(wanted, folder, phases)]
    if wanted.kernel:
        from innkeeper.images.kernel import check_kernel

        path = Path(wanted.kernel).resolve()
        release = check_kernel(path).release
        modules = wanted.modules or modules_folder(path, release)
        if modules is None and root.inside is not None and release:
            modules = modules_below(root.inside, release)
        tree = folder_tree(modules, release) if modules is not None else None
        return [KernelFile(flavour_of(release), path, tree)]
    if root.inside is None:
        raise no_tool(root.kind)
    found = find_kernels(root.inside)
    if not found:
        raise ImageError(
            f"{wanted.root.name} has no kernel in /boot",
            stage="import",
            fix="give one with --kernel FILE, or take --kernel debian",
        )
    return found


def _debian_kernel(wanted: Import, folder: Path, phases: Phases) -> KernelFile:
    from innkeeper.images.package import fetch_package, find_package, unpack_package

    package = find_package(wanted.packages) or fetch_package(wanted.packages, phases.report)
    content = unpack_package(package)
    path = folder / "package" / "vmlinuz"
    path.parent.mkdir()
    write_new(path, content.vmlinuz, 0o644)
    return KernelFile(flavour_of(content.release), path, content.modules)


def _take_tools(wanted: Import, folder: Path) -> RootType | None:
    """The type of the tools, which are in the bundle then."""
    if wanted.tools is None:
        return None
    kind = root_type_of(read_head(wanted.tools))
    if kind is None:
        raise ImageError(
            f"{wanted.tools} is not a file system that a guest can mount", stage="import"
        )
    copy_sparse(wanted.tools, folder / f"tools.{kind}")
    return kind
