# SPDX-License-Identifier: Apache-2.0
"""Every change of state of all guests, from their keepers, and from the disk where none lives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from innkeeper.errors import InnError, UnknownName
from innkeeper.keeper.client import StateWatch
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import guest_lives, known_names, read_record
from innkeeper.system.files import make_folder
from innkeeper.system.follow import FolderWatch

# A keeper that comes or goes just now, or was killed, makes no file that tells of it.
_LOOK_AGAIN_S = 0.5


class Change(msgspec.Struct, frozen=True):
    """One guest's new state, or "removed"; or, with `disk`, the state of a disk's space.

    :ivar at: seconds since the epoch.
    """

    name: str
    state: str
    at: float
    reason: str = ""
    disk: str = ""
    space: str | None = None


class Changes:
    """The present states, then every later one. A context manager by its :meth:`close`.

    :param names: only these; empty means all.
    :raise UnknownName: one of the names is neither a machine nor a guest.
    """

    def __init__(self, layout: Layout, names: tuple[str, ...]) -> None:
        for name in names:
            read_record(layout, name)
        self._layout = layout
        self._names = names
        self._last: dict[str, Change] = {}
        self._watches: dict[str, StateWatch] = {}
        self._folders = FolderWatch()
        make_folder(layout.machines)
        self._folders.add(layout.machines)
        self._folders.add(layout.runtime)

    def follow(self, *, reader_of: int) -> Iterator[Change | None]:
        """The changes, and None before each wait. Does not end.

        :raise BrokenPipeError: nobody reads `reader_of` any more.
        """
        while True:
            yield from self._look()
            yield None
            hanging = self._last.keys() - self._watches.keys()
            unclear = any(guest_lives(self._layout, name) for name in hanging)
            numbers = {watch.fileno(): name for name, watch in self._watches.items()}
            ready = self._folders.wait(
                _LOOK_AGAIN_S if unclear else None, also=numbers, reader_of=reader_of
            )
            self._folders.take()
            for fd in ready & numbers.keys():
                yield from self._hear(numbers[fd])

    def close(self) -> None:
        """Close all connections. Idempotent."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._folders.close()

    def _look(self) -> Iterator[Change]:
        """What the disk tells of guests without a connection, and new connections."""
        for folder in self._layout.runtime.iterdir():
            # Before its lock is looked at: what a keeper does next is news then.
            self._folders.add(folder)
        known = set(known_names(self._layout))
        for name in sorted(known if not self._names else known & set(self._names)):
            if name in self._watches:
                continue
            with contextlib.suppress(UnknownName, InnError):
                if guest_lives(self._layout, name):
                    with contextlib.suppress(OSError, InnError):
                        self._watches[name] = StateWatch(self._layout, name)
                        yield from self._hear(name)
                        continue
                record = read_record(self._layout, name)
                yield from self._tell(Change(name, record.state, record.changed_at, record.reason))
        for name in self._last.keys() - known - self._watches.keys():
            last = self._last.pop(name)
            yield msgspec.structs.replace(last, state="removed", reason="")

    def _hear(self, name: str) -> Iterator[Change]:
        watch = self._watches[name]
        changes, ended = watch.take()
        if ended:
            watch.close()
            del self._watches[name]
        for change in changes:
            told = Change(name, change.state, change.at, change.reason, change.disk, change.space)
            yield from ([told] if change.disk else self._tell(told))

    def _tell(self, change: Change) -> Iterator[Change]:
        if self._last.get(change.name) != change:
            self._last[change.name] = change
            yield change
