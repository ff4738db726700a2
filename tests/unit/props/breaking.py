# SPDX-License-Identifier: Apache-2.0
"""A verb that is broken at each of its writes in turn; its process has `die_at_call.c` preloaded.

Every round begins with the same files. A forked child does the verb; at its nth call
that changes files it is killed, or the disk is full from there on. What is there then
has to be whole, and the next try has to work and to leave nothing but the result.
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

# No verb has so many calls; one that goes on for ever would fill the disk.
_ROUNDS_MAXIMUM = 600
# Of a child that met a full disk and said so, or could do without.
_FULL = 3
_ARMS = {"kill": ("die_at_call", -signal.SIGKILL), "fill": ("full_at_call", _FULL)}


@dataclass(frozen=True)
class Verb:
    """What is done, and how to look at what is there.

    :ivar act: does it in a folder, which may be missing.
    :ivar look: the digest of what is there, None for nothing; fails for half a thing.
    :ivar beside: what lies in the folder beside the result.
    :ivar sweep: what clears up after a try that ended early; None where that is the next try's.
    :ivar kept: names of what may stay for the next try even so.
    """

    act: Callable[[Path], object]
    look: Callable[[Path], str | None]
    beside: Callable[[Path], list[str]]
    sweep: Callable[[Path], object] | None = None
    kept: tuple[str, ...] = ()


def break_each(verb: Verb, how: str, folder: Path, before: Path | None) -> None:
    """Break it at the first write, at the second, and so on until the verb ends by itself.

    Prints how many rounds there were.

    :param how: "kill" or "fill".
    :param folder: which is made anew for each round.
    :param before: what is in it at the beginning of a round.
    """
    arm, expected = _ARMS[how]
    old = verb.look(before) if before else None
    _begin(folder, before)
    assert _forked(verb.act, folder) == 0
    new = verb.look(folder)
    assert new not in (None, old)
    seen: set[str | None] = set()
    for number in range(1, _ROUNDS_MAXIMUM):
        _begin(folder, before)
        code = _forked(verb.act, folder, arm, number)
        if code == 0:
            break
        assert code == expected, f"round {number}: exit code {code}"
        there = _after(how, verb, folder, number)
        assert there in (old, new), f"round {number}: {there}"
        seen.add(there)
        assert _forked(verb.act, folder) == 0, f"round {number}: the next try failed"
        assert verb.look(folder) == new, f"round {number}: the next try"
        left = verb.beside(folder)
        assert left == [], f"round {number}: {left} after the next try"
    else:
        raise AssertionError("it never ended by itself")
    assert seen == {old, new}, seen
    sys.stdout.write(json.dumps({"rounds": number - 1}))


def _begin(folder: Path, before: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if before is not None:
        shutil.copytree(before, folder)


def _forked(act: Callable[[Path], object], folder: Path, arm: str = "", number: int = 0) -> int:
    """Do it in a child, with the nth call armed; its exit code, -9 when it was killed."""
    pid = os.fork()
    if pid == 0:
        calls = ctypes.CDLL(None)
        try:
            if arm:
                calls[arm](ctypes.c_long(number))
            act(folder)
            os._exit(_FULL if calls.was_full() else 0)
        except OutOfSpace:
            os._exit(_FULL if calls.was_full() else 1)
        except BaseException:  # noqa: BLE001 - nothing of it may go on in the child
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _after(how: str, verb: Verb, folder: Path, number: int) -> str | None:
    """What is there when it ended early; nothing half made, and what else may be left is swept."""
    if not folder.exists():
        return None
    there = verb.look(folder)
    if how == "kill" and (verb.sweep is None or number % 2):
        # Left for the next try to sweep.
        return there
    if how == "kill" and verb.sweep is not None:
        verb.sweep(folder)
    left = [name for name in verb.beside(folder) if name not in verb.kept]
    assert left == [], f"round {number}: {left}"
    return there
