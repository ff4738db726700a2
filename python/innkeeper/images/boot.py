# SPDX-License-Identifier: Apache-2.0
"""What a guest boots a bundle with: its kernel, and its modules with our agent as initramfs.

The kernel unpacks one archive after the other from the same initramfs, so the
bundle's modules and the agent need no common archive; the result is cached, since
a start must not copy megabytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from innkeeper.errors import ImageError, UnknownName
from innkeeper.images.bundles import check_arch, check_digest
from innkeeper.images.source import Report, place_elf
from innkeeper.images.store import Inputs, Store
from innkeeper.images.tiny import AGENT_FIX, agent_path
from innkeeper.model.bundle import Bundle, StoredKernel
from innkeeper.model.image import Image, Root, Tools
from innkeeper.model.sizes import format_size

# Counts up with every change of what is made of the same inputs.
BUILDER_VERSION = 2

# Reading this takes long enough to say so.
_SLOW_BYTES = 64 << 20

# The agent mounts these, and the root's layer, before it has a root.
_FOLDERS = ("dev", "proc", "run", "sys")


def prepare_bundle(
    bundle: Bundle, folder: Path, cache_dir: Path, *, report: Report, flavour: str = ""
) -> Image:
    """The image by which a guest starts from a bundle.

    :param folder: of the bundle.
    :param report: gets a line for each thing that takes time.
    :param flavour: of the kernel; "" means the bundle's first.
    :raise UnknownName: the bundle has no kernel of this flavour.
    :raise ImageError: the agent is missing, the bundle is for another machine, or a
        file of it is not what it was when it was stored; it is named.
    """
    check_arch(bundle, stage="image")
    kernel = choose_kernel(bundle, flavour)
    store = Store(cache_dir.absolute())
    _check_files(bundle, folder, kernel, store.inputs, report)
    agent = agent_path()
    agent_digest = store.inputs.digest(agent)
    words = (str(BUILDER_VERSION), bundle.digest, kernel.flavour, agent_digest)
    digest = hashlib.sha256("\n".join(("boot", *words)).encode()).hexdigest()

    def build(into: Path) -> Image:
        image = _build(into, folder, kernel, report)
        return msgspec.structs.replace(image, name=bundle.name, digest=digest)

    image = store.find_or_build(f"boot-{bundle.name}", digest, build)
    store.inputs.save()
    if not bundle.root:
        return image
    sizes = {file.name: file.size_bytes for file in bundle.files}
    root = Root(
        path=str(folder / bundle.root),
        fstype=bundle.root_type,
        size_bytes=sizes[bundle.root],
        init=bundle.init,
        bundle=bundle.digest,
    )
    tools = None
    if bundle.tools:
        path = str(folder / bundle.tools)
        tools = Tools(path=path, fstype=bundle.tools_type, mount_point=bundle.tools_at)
    return msgspec.structs.replace(image, root=root, tools=tools)


def _check_files(
    bundle: Bundle, folder: Path, kernel: StoredKernel, inputs: Inputs, report: Report
) -> None:
    """Compare the files that a guest will get with their digests.

    A file is read when it is new or its stat says that somebody changed it. What the
    disk changes by itself, `inn image verify` finds.
    """
    wanted = {kernel.file, kernel.modules_file, bundle.root, bundle.tools}
    for file in bundle.files:
        if file.name in wanted:
            if file.size_bytes > _SLOW_BYTES and not inputs.knows(folder / file.name):
                report(f"reading {bundle.name}/{file.name} ({format_size(file.size_bytes)})")
            sha256 = inputs.digest(folder / file.name)
            check_digest(folder, file, sha256, stage="image")


def choose_kernel(bundle: Bundle, flavour: str) -> StoredKernel:
    """The kernel of this flavour, the first one for "".

    :raise UnknownName: there is none.
    """
    if not flavour:
        return bundle.kernels[0]
    for kernel in bundle.kernels:
        if kernel.flavour == flavour:
            return kernel
    have = tuple(kernel.flavour for kernel in bundle.kernels)
    raise UnknownName(f"kernel flavour of the image {bundle.name}:", flavour, have, stage="image")


def _build(into: Path, folder: Path, kernel: StoredKernel, report: Report) -> Image:
    from innkeeper.images.cpio import Archive
    from innkeeper.images.initramfs import read_program
    from innkeeper.system.files import write_new

    archive = Archive()
    for name in _FOLDERS:
        archive.folder(name)
    archive.device("dev/console", 0o600, 5, 1)
    archive.file("init", read_program(agent_path(), "agent", AGENT_FIX), 0o755)
    initrd = _modules(folder, kernel) + archive.to_bytes()
    write_new(into / "initrd", initrd, 0o644)
    source = folder / kernel.file
    elf = place_elf(source, into, report)
    return Image(
        name="",
        digest="",
        kernel=elf or str(source),
        kernel_source=str(source),
        initrd="initrd",
        kernel_release=kernel.release,
        agent=True,
        modules=kernel.modules,
        lacks=kernel.lacks,
        initrd_bytes=len(initrd),
        kernel_bytes=((into / elf) if elf else source).stat().st_size,
    )


def _modules(folder: Path, kernel: StoredKernel) -> bytes:
    if not kernel.modules_file:
        return b""
    path = folder / kernel.modules_file
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ImageError(
            f"cannot read {path}: {exc.strerror}",
            stage="image",
            fix=f"`inn image verify {folder.name}` tells what else is damaged",
        ) from exc
