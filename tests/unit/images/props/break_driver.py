# SPDX-License-Identifier: Apache-2.0
"""One verb of `inn image`, broken at each of its writes in turn: run with `die_at_call.c` preloaded.

Every round begins with the same files. A forked child does the verb; at its nth call
that changes files it is killed, or the disk is full from there on. What is there then
has to be whole, and the next try has to work and to leave nothing but the result.
Prints how many rounds there were.
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

from innkeeper.errors import OutOfSpace
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
# Of a child that met a full disk and said so, or could do without.
FULL = 3
ARMS = {"kill": ("die_at_call", -signal.SIGKILL), "fill": ("full_at_call", FULL)}


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


def forked(act: Callable[[Path], object], folder: Path, arm: str = "", number: int = 0) -> int:
    """Do it in a child, with the nth call armed; its exit code, -9 when it was killed."""
    pid = os.fork()
    if pid == 0:
        calls = ctypes.CDLL(None)
        try:
            if arm:
                calls[arm](ctypes.c_long(number))
            act(folder)
            os._exit(FULL if calls.was_full() else 0)
        except OutOfSpace:
            os._exit(FULL if calls.was_full() else 1)
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


def after(how: str, verb: Verb, folder: Path, number: int) -> str | None:
    """What is there when it ended early; nothing half made, and what else may be left is swept."""
    if not folder.exists():
        return None
    there = verb.look(folder)
    if how == "kill" and (verb.sweep is None or number % 2):
        # Left for the next try to sweep.
        return there
    if how == "kill" and verb.sweep is not None:
        verb.sweep(folder)
    left = [name for name in left_beside(folder) if name != PARTS]
    assert left == [], f"round {number}: {left}"
    return there


def main() -> None:
    """Break it at the first write, at the second, and so on until the verb ends by itself."""
    how, word, source, before, work = sys.argv[1:]
    verb, folder = verb_of(word, source), Path(work)
    arm, expected = ARMS[how]
    old = read_bundle(Path(before) / NAME).digest if before else None
    assert forked(verb.act, folder) == 0
    new = verb.look(folder)
    assert new not in (None, old)
    seen: set[str | None] = set()
    for number in range(1, ROUNDS_MAXIMUM):
        shutil.rmtree(folder)
        if before:
            shutil.copytree(before, folder)
        code = forked(verb.act, folder, arm, number)
        if code == 0:
            break
        assert code == expected, f"round {number}: exit code {code}"
        there = after(how, verb, folder, number)
        assert there in (old, new), f"round {number}: {there}"
        seen.add(there)
        assert forked(verb.act, folder) == 0, f"round {number}: the next try failed"
        assert verb.look(folder) == new, f"round {number}: the next try"
        left = left_beside(folder)
        assert left == [], f"round {number}: {left} after the next try"
    else:
        raise AssertionError("it never ended by itself")
    assert seen == {old, new}, seen
    sys.stdout.write(json.dumps({"rounds": number - 1}))


if __name__ == "__main__":
    main()
