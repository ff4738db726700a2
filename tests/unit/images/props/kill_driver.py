# SPDX-License-Identifier: Apache-2.0
"""One verb of `inn image`, killed at each of its writes in turn: run with `die_at_call.so` preloaded.

Every round begins with the same files. A forked child does the verb and dies at its
nth call that changes files; what is there then has to be whole, and the next try has to
work and to leave nothing but the result. Prints how many rounds there were.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from innkeeper.images.build import build_debian
from innkeeper.images.bundles import bundle_names, read_bundle, verify_bundle, verify_file
from innkeeper.images.importing import Import, import_image
from innkeeper.images.installing import export_bundle, install_bundle
from innkeeper.images.making import PARTS, sweep_builds
from innkeeper.images.phases import Phases
from innkeeper.model.recipe import Recipe

NAME = "box"
PHASES = Phases(lambda _line: None)
# No verb has so many calls; one that goes on for ever would fill the disk.
ROUNDS_MAXIMUM = 600


@dataclass(frozen=True)
class Verb:
    """What is done, and how to look at what is there.

    :ivar act: does it in a folder, which may be missing.
    :ivar look: the digest of what is there, None for nothing; fails for half a thing.
    :ivar sweep: what `inn image gc` does about it; None where that is the next try's.
    """

    act: Callable[[Path], object]
    look: Callable[[Path], str | None]
    sweep: Callable[[Path], object] | None


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
        return Verb(lambda parent: export(Path(source), parent), look_exported, None)
    return Verb(stored[word], look_stored, sweep_builds)


def forked(act: Callable[[Path], object], folder: Path, die_at: int) -> int:
    """Do it in a child; its exit code, -9 when it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).die_at_call(ctypes.c_long(die_at))
            act(folder)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of it may go on in the child
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left_beside(folder: Path) -> list[str]:
    """What is there beside the result; the folder of parts may stay, empty."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name != NAME and not (path.name == PARTS and not list(path.iterdir()))
    )


def main() -> None:
    """Kill at the first write, at the second, and so on until the verb ends by itself."""
    word, source, before, work = sys.argv[1:]
    verb, folder = verb_of(word, source), Path(work)
    old = read_bundle(Path(before) / NAME).digest if before else None
    assert forked(verb.act, folder, 0) == 0
    new = verb.look(folder)
    assert new not in (None, old)
    seen: set[str | None] = set()
    for number in range(1, ROUNDS_MAXIMUM):
        shutil.rmtree(folder)
        if before:
            shutil.copytree(before, folder)
        code = forked(verb.act, folder, number)
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"round {number}: exit code {code}"
        there = verb.look(folder) if folder.exists() else None
        assert there in (old, new), f"round {number}: {there}"
        seen.add(there)
        if number % 2 and verb.sweep is not None and folder.exists():
            verb.sweep(folder)
            left = [name for name in left_beside(folder) if name != PARTS]
            assert left == [], f"round {number}: {left} after sweeping"
        assert forked(verb.act, folder, 0) == 0, f"round {number}: the next try failed"
        assert verb.look(folder) == new, f"round {number}: the next try"
        left = left_beside(folder)
        assert left == [], f"round {number}: {left} after the next try"
    else:
        raise AssertionError("it never ended by itself")
    assert seen == {old, new}, seen
    sys.stdout.write(json.dumps({"rounds": number - 1}))


if __name__ == "__main__":
    main()
