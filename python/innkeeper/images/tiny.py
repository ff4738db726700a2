# SPDX-License-Identifier: Apache-2.0
"""The built-in image: a Debian kernel, the modules it needs, busybox and our agent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from innkeeper.errors import ImageError
from innkeeper.images.package import fetch_package, find_package
from innkeeper.images.source import (
    WANTED_MODULES,
    KernelSource,
    PackagedKernel,
    Report,
    UserKernel,
)
from innkeeper.images.store import Store
from innkeeper.model.image import Image
from innkeeper.system.files import write_new

NAME = "tiny"

BUSYBOX = Path("/bin/busybox")
_DATA = Path(__file__).with_name("data") / "tiny"

# Counts up with every change of what a build makes of the same inputs.
BUILDER_VERSION = 4

_MIB = 1 << 20
AGENT_FIX = "run `make setup`, or set INN_AGENT to an agent"
_PROGRAM_FIXES = {
    "busybox": "apt-get install busybox-static",
    "agent": AGENT_FIX,
}


def agent_path() -> Path:
    """Our agent for the guest: `INN_AGENT`, else the one that came with innkeeper."""
    override = os.environ.get("INN_AGENT")
    if override:
        return Path(override).absolute()
    return Path(__file__).parent.parent / "_guest" / "inn-agent"


def prepare_tiny(
    cache_dir: Path,
    *,
    report: Report,
    kernel: Path | None = None,
    drivers: tuple[str, ...] = (),
) -> Image:
    """The tiny image, from the cache where its inputs are unchanged.

    :param report: gets a line for each thing that takes time.
    :param kernel: a kernel file to use in place of Debian's.
    :param drivers: modules beside those that every guest gets.
    :raise ImageError: an input is missing or cannot be used.
    :raise OutOfSpace: the cache is full.
    """
    cache_dir = cache_dir.absolute()
    store = Store(cache_dir)
    source: KernelSource
    wanted = (*WANTED_MODULES, *drivers)
    if kernel is None:
        packages = cache_dir / "packages"
        source = PackagedKernel(
            find_package(packages) or fetch_package(packages, report), drivers=wanted
        )
    else:
        source = UserKernel(kernel, store.inputs, drivers=wanted)
    userland = _userland()
    digests = {
        role: store.inputs.digest(path) for role, path in (source.inputs() | userland).items()
    }
    digests |= {f"driver {name}": "" for name in drivers}
    digest = _digest(digests)

    def build(folder: Path) -> Image:
        return _build(folder, source, userland, digests, report)

    image = store.find_or_build(NAME, digest, build)
    store.inputs.save()
    return image


def _userland() -> dict[str, Path]:
    """The files beside kernel and modules, by role."""
    programs = {"busybox": BUSYBOX, "agent": agent_path()}
    for role, path in programs.items():
        if not path.is_file():
            from innkeeper.images.initramfs import read_program

            read_program(path, role, _PROGRAM_FIXES[role])
    data = (path for path in _DATA.rglob("*") if path.is_file())
    return programs | {f"data/{path.relative_to(_DATA).as_posix()}": path for path in data}


def _digest(digests: Mapping[str, str]) -> str:
    lines = [f"{role} {sha256}\n" for role, sha256 in sorted(digests.items())]
    return hashlib.sha256("".join((f"{NAME} {BUILDER_VERSION}\n", *lines)).encode()).hexdigest()


def _build(
    folder: Path,
    source: KernelSource,
    userland: Mapping[str, Path],
    digests: Mapping[str, str],
    report: Report,
) -> Image:
    # Most starts find the image finished, and do without these.
    from innkeeper.images.initramfs import applet_names, build_initramfs

    content = {role: _read(role, path, digests[role]) for role, path in userland.items()}
    placed = source.place(folder, report)
    initrd = build_initramfs(
        release=placed.release,
        modules=placed.modules,
        agent=content["agent"],
        busybox=content["busybox"],
        applets=applet_names(BUSYBOX),
        data={
            role.removeprefix("data/"): data
            for role, data in content.items()
            if role.startswith("data/")
        },
    )
    report(f"building the initramfs ({len(initrd) / _MIB:.1f} MiB)")
    write_new(folder / "initrd", initrd, 0o644)
    return Image(
        name=NAME,
        digest=_digest(digests),
        kernel=placed.kernel,
        kernel_source=placed.kernel_source,
        initrd="initrd",
        kernel_release=placed.release,
        agent=True,
        modules=tuple(module.name for module in placed.modules),
        lacks=placed.lacks,
        initrd_bytes=len(initrd),
        kernel_bytes=(folder / placed.kernel).stat().st_size,
    )


def _read(role: str, path: Path, sha256: str) -> bytes:
    if role in _PROGRAM_FIXES:
        from innkeeper.images.initramfs import read_program

        data = read_program(path, role, _PROGRAM_FIXES[role])
    else:
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ImageError(
            f"{path} changed while the image was being built", stage="image", fix="try again"
        )
    return data
