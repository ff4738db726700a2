# SPDX-License-Identifier: Apache-2.0
"""One verb of `inn image`, broken at each of its writes in turn (breaking.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from breaking import Verb, break_each

from innkeeper.images.build import build_debian
from innkeeper.images.bundles import bundle_names, read_bundle, verify_bundle, verify_file
from innkeeper.images.importing import Import, import_image
from innkeeper.images.installing import export_bundle, install_bundle
from innkeeper.images.making import PARTS, sweep_builds
from innkeeper.images.phases import Phases
from innkeeper.model.recipe import Recipe

NAME = "box"
PHASES = Phases(lambda _line: None)


def look_stored(images: Path) -> str | None:
    """The digest of the one image that may be in a folder of bundles."""
    names = bundle_names(images)
    assert names in ((), (NAME,)), names
    if not names:
        return None
    assert verify_bundle(images, NAME) == []
    return read_bundle(images / NAME).digest


def look_exported(parent: Path) -> str | None:
    """The digest of the one export that may be in a folder."""
    if not (parent / NAME).exists():
        return None
    bundle = read_bundle(parent / NAME)
    for file in bundle.files:
        verify_file(parent / NAME, file)
    return bundle.digest


def export(made: Path, parent: Path) -> None:
    """Write an image out where it is not there already."""
    if not (parent / NAME).exists():
        export_bundle(made, NAME, parent / NAME)


def verb_of(word: str, source: str) -> Verb:
    """The verb of the command line."""
    stored: dict[str, Callable[[Path], object]] = {
        "build": lambda images: build_debian(
            images, NAME, Recipe(init="agent"), phases=PHASES, force=True
        ),
        "import": lambda images: import_image(
            images,
            NAME,
            Import(root=Path(source), packages=images / "packages"),
            phases=PHASES,
            force=True,
        ),
        "install": lambda images: install_bundle(
            images, source, name=NAME, digest=None, force=True, phases=PHASES
        ),
    }
    if word == "export":
        return Verb(lambda parent: export(Path(source), parent), look_exported, left_beside)
    return Verb(stored[word], look_stored, left_beside, sweep_builds, (PARTS,))


def left_beside(folder: Path) -> list[str]:
    """What is there beside the result; the folder of parts may stay, empty."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name != NAME and not (path.name == PARTS and not list(path.iterdir()))
    )


if __name__ == "__main__":
    arm, word, source, before, work = sys.argv[1:]
    break_each(verb_of(word, source), arm, Path(work), Path(before) if before else None)
