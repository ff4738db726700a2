# SPDX-License-Identifier: Apache-2.0
"""Changes in folders as they happen, by inotify(7)."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from innkeeper.system import inotify
from innkeeper.system.inotify import Inotify

_MASK = inotify.MODIFY | inotify.MOVED_TO | inotify.CREATE | inotify.DELETE


class FolderWatch:
    """Tells when something in some folders was made, written, renamed or removed."""

    def __init__(self) -> None:
        self._inotify = Inotify()
        self._folders: dict[int, Path] = {}

    @property
    def fd(self) -> int:
        """Readable when there is news."""
        return self._inotify.fd

    def add(self, folder: Path) -> bool:
        """Watch one more folder; False when there is none."""
        try:
            self._folders[self._inotify.add(folder, _MASK)] = folder
        except OSError:
            return False
        return True

    def take(self) -> set[Path]:
        """The paths about which there is news; the folders themselves when news was lost."""
        found: set[Path] = set()
        for event in self._inotify.read():
            if event.watch in self._folders:
                folder = self._folders[event.watch]
                found.add(folder / os.fsdecode(event.name) if event.name else folder)
            else:  # an overflow
                found.update(self._folders.values())
        return found

    def wait(
        self, timeout_s: float | None, *, also: Iterable[int] = (), reader_of: int = -1
    ) -> set[int]:
        """The descriptors that are readable: our own and those of `also`.

        :param reader_of: a descriptor that is written to.
        :raise BrokenPipeError: nobody reads from that any more.
        """
        poller = select.poll()
        for fd in (self.fd, *also):
            poller.register(fd, select.POLLIN)
        if reader_of >= 0:
            poller.register(reader_of, 0)
        ready = dict(poller.poll(None if timeout_s is None else timeout_s * 1000))
        if ready.pop(reader_of, 0) & select.POLLERR:
            raise BrokenPipeError
        return set(ready)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._inotify.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
