# SPDX-License-Identifier: Apache-2.0
"""Changes anywhere below some folders, as they happen.

inotify(7) watches single folders, so there is a watch for each folder below, up to a
limit. What is made while its folder gets a watch is told too. Changes of attributes
alone are not: who is told of a change may answer with one (`innkeeper.keeper.notify`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from innkeeper.system import inotify
from innkeeper.system.inotify import Event, Inotify

# A watch takes about 1 KiB of the kernel's memory, which users share.
WATCHES_LIMIT = 8192

_GONE = inotify.DELETE | inotify.MOVED_FROM
_COME = inotify.CREATE | inotify.MOVED_TO
_MASK = _GONE | _COME | inotify.MODIFY | inotify.CLOSE_WRITE
_ONLY = inotify.ONLY_FOLDERS | inotify.NO_FOLLOW | inotify.NOT_UNLINKED


class Change(NamedTuple):
    """Something changed.

    :ivar key: of the watched folder.
    :ivar path: below it; empty for the folder itself.
    :ivar gone: it was removed or moved away.
    """

    key: str
    path: bytes
    gone: bool


class TreeWatch:
    """Watches folders with all below them.

    :ivar overflows: how often the kernel lost events, after which nobody knows which.
    :ivar unwatched: folders that have no watch because there are too many.
    """

    def __init__(self, *, limit: int = WATCHES_LIMIT) -> None:
        """Make a watch of nothing.

        :raise HostError: the user has too many.
        """
        self._inotify = Inotify()
        self._limit = limit
        self._roots: dict[str, bytes] = {}
        # One folder can be below several: a number for all of its places.
        self._places: dict[int, set[tuple[str, bytes]]] = {}
        self._numbers: dict[tuple[str, bytes], int] = {}
        self.overflows = 0
        self.unwatched = 0

    @property
    def fd(self) -> int:
        """Readable when :meth:`take` has news."""
        return self._inotify.fd

    def add(self, key: str, folder: str) -> None:
        """Watch one more folder, which may be walked through for seconds.

        Not while another thread is in :meth:`take`.
        """
        self._roots[key] = os.fsencode(os.path.realpath(folder))
        for _ in self._enter(key, b""):
            pass

    def remove(self, key: str) -> None:
        """Stop to watch a folder."""
        self._roots.pop(key, None)
        self._leave(key, b"")

    def take(self) -> list[Change]:
        """What changed, once each, in the order in which it was first seen."""
        changes: dict[Change, None] = {}
        for event in self._inotify.read():
            if event.mask & inotify.OVERFLOW:
                self.overflows += 1
                changes |= dict.fromkeys(self._look_again())
            elif event.mask & inotify.IGNORED:
                for place in self._places.pop(event.watch, ()):
                    self._numbers.pop(place, None)
            else:
                for key, folder in tuple(self._places.get(event.watch, ())):
                    changes |= dict.fromkeys(self._follow(event, key, folder))
        return list(changes)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._inotify.close()

    def _follow(self, event: Event, key: str, folder: bytes) -> Iterator[Change]:
        path = _join(folder, event.name)
        yield Change(key, path, bool(event.mask & _GONE))
        if not event.mask & inotify.IS_FOLDER:
            return
        if event.mask & inotify.MOVED_FROM:
            # It is watched anew under its new name, if it has one here.
            self._leave(key, path)
        elif event.mask & _COME:
            yield from self._enter(key, path)

    def _look_again(self) -> Iterator[Change]:
        """Find the folders that came unseen; what else changed nobody knows."""
        self.unwatched = 0
        for key in self._roots:
            yield Change(key, b"", gone=False)
            for _ in self._enter(key, b""):
                pass

    def _enter(self, key: str, path: bytes) -> Iterator[Change]:
        """Watch a folder and those below it; what is in them may be new."""
        left = [path]
        while left:
            path = left.pop()
            whole = _join(self._roots[key], path)
            if not self._watch(key, path, whole):
                continue
            # Folders come and go, and not all can be read.
            with contextlib.suppress(OSError), os.scandir(whole) as entries:
                for entry in entries:
                    yield Change(key, _join(path, entry.name), gone=False)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(_join(path, entry.name))

    def _watch(self, key: str, path: bytes, whole: bytes) -> bool:
        known = (key, path) in self._numbers
        if not known and len(self._numbers) >= self._limit:
            self.unwatched += 1
            return False
        try:
            number = self._inotify.add(whole, _MASK | _ONLY)
        except OSError as exc:
            self.unwatched += exc.errno == errno.ENOSPC
            return False
        self._places.setdefault(number, set()).add((key, path))
        self._numbers[key, path] = number
        return True

    def _leave(self, key: str, path: bytes) -> None:
        below = path + b"/" if path else b""
        gone = [
            place
            for place in self._numbers
            if place[0] == key and (place[1] == path or place[1].startswith(below))
        ]
        for place in gone:
            number = self._numbers.pop(place)
            places = self._places.get(number, set())
            places.discard(place)
            if not places:
                self._places.pop(number, None)
                self._inotify.remove(number)


def _join(folder: bytes, name: bytes) -> bytes:
    return b"/".join(part for part in (folder, name) if part)
