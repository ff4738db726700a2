# SPDX-License-Identifier: Apache-2.0
"""What needs both stored images and machines: who uses an image, removing one, tidying up."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from innkeeper.errors import InnError, NameInUse
from innkeeper.images.bundles import bundle_names, remove_bundle
from innkeeper.images.making import sweep_builds, sweep_parts
from innkeeper.images.package import find_package
from innkeeper.images.store import Store
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import load_machine, machine_names


def image_users(layout: Layout, image: str) -> tuple[str, ...]:
    """The names of the machines that boot from an image, whether they run or not."""
    users = []
    for name in machine_names(layout):
        # A machine whose file is damaged is told of by `inn ls`, not here.
        with contextlib.suppress(InnError):
            if load_machine(layout, name).image == image:
                users.append(name)
    return tuple(users)


def remove_image(layout: Layout, image: str) -> None:
    """Remove a stored image.

    :raise UnknownName: there is none with this name.
    :raise NameInUse: a machine or a running guest uses it; it is named.
    """
    users = image_users(layout, image)
    if users and image in bundle_names(layout.images):
        raise NameInUse(
            f"the image {image!r} is used by the machine{'s' * (len(users) > 1)} "
            f"{', '.join(users)}",
            stage="image",
            fix=f"`inn rm {' '.join(users)}` first",
        )
    remove_bundle(layout.images, image)


@dataclass(frozen=True)
class Removed:
    """Something that was tidied away."""

    path: str
    size_bytes: int


def collect_garbage(layout: Layout) -> list[Removed]:
    """Remove what nobody needs: half builds, unfinished downloads, what can be made again.

    The built-in image and what stored images boot with are kept for 30 days after
    their last use, and so is the newest kernel package.
    """
    removed = []
    for sweep in (sweep_builds, sweep_parts):
        removed += [Removed(str(layout.images / name), size) for name, size in sweep(layout.images)]
    removed += [Removed(str(path), size) for path, size in Store(layout.cache).collect()]
    packages = layout.cache / "packages"
    newest = find_package(packages)
    for path in sorted(packages.glob("linux-image-*.deb")):
        if path != newest:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                removed.append(Removed(str(path), size))
    return removed
