# SPDX-License-Identifier: Apache-2.0
"""What changes in shared folders on the host, told to the guest so that its watchers wake.

::

    TreeWatch ──> waiting (once each, bounded) ──every 0.1 s──> the agent, which sets
                                                                the files' own times

No file system tells a guest of changes that the host makes. The agent's touch is a change
of attributes here, which nobody watches for, so nothing goes round. Changes that the guest
made itself come here too, and the agent passes over them (`crates/agent/src/notify.rs`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from innkeeper.agent.changes import changes_frames, shares_frame
from innkeeper.model.share import Share
from innkeeper.system.tree_watch import Change, TreeWatch

if TYPE_CHECKING:
    from innkeeper.agent.announce import AnnounceServer
    from innkeeper.keeper.plan import RunPlan

# Collects what belongs together, such as all writes to one file.
_PAUSE_S = 0.1

# One that keeps changing is told of this often.
_AGAIN_S = 1.0

# Changes that wait; more are lost, and said to be. An agent that does not read makes
# them wait, too.
_WAITING_LIMIT = 4096
_BATCH = 512
_UNSENT_LIMIT_BYTES = 256 * 1024

# What is lost is said at most this often.
_SAY_S = 10.0


class Notifier:
    """Watches a guest's shared folders and tells its agent. Close it.

    :param tell: is given a line about what was lost or cannot be watched.
    :raise HostError: the user watches too many things already.
    """

    def __init__(self, announce: AnnounceServer, tell: Callable[[str], None]) -> None:
        self._announce = announce
        self._tell = tell
        self._watch = TreeWatch()
        self._loop = asyncio.get_running_loop()
        self._folders: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._following: asyncio.Task[None] | None = None
        self._waiting: dict[Change, None] = {}
        self._told: dict[Change, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._lost = 0
        self._said_lost = 0
        self._said_unwatched = 0
        self._next_say = 0.0

    def follow(self, shares: Iterable[Share]) -> asyncio.Task[None]:
        """Watch these shares from now on, and no others; they may be mounted anew.

        :return: done when all of them are watched, and the agent was told.
        """
        self._wanted = {share.key: share.host for share in shares}
        if self._following is None or self._following.done():
            self._following = self._loop.create_task(self._catch_up())
        return self._following

    async def _catch_up(self) -> None:
        wanted: dict[str, str] | None = None
        # It may change while a folder is walked through.
        while wanted is not self._wanted:
            wanted = self._wanted
            for key, folder in tuple(self._folders.items()):
                if wanted.get(key) != folder:
                    self._forget(key)
            for key, folder in wanted.items():
                if key not in self._folders:
                    await self._add(key, folder)
        self._announce.set_watched(shares_frame(sorted(self._folders)))
        self._say()

    async def _add(self, key: str, folder: str) -> None:
        self._folders[key] = folder
        self._loop.remove_reader(self._watch.fd)
        try:
            await asyncio.to_thread(self._watch.add, key, folder)
        finally:
            if self._watch.fd >= 0:
                self._loop.add_reader(self._watch.fd, self._take)

    def _forget(self, key: str) -> None:
        del self._folders[key]
        self._watch.remove(key)
        self._waiting = {each: None for each in self._waiting if each.key != key}

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._following is not None:
            self._following.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watch.fd >= 0:
            self._loop.remove_reader(self._watch.fd)
        self._watch.close()

    def _take(self) -> None:
        for change in self._watch.take():
            if change in self._waiting:
                continue
            if len(self._waiting) >= _WAITING_LIMIT:
                self._lost += 1
            else:
                self._waiting[change] = None
        self._wake()
        self._say()

    def _wake(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_later(_PAUSE_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._announce.unsent_bytes() < _UNSENT_LIMIT_BYTES:
            now = self._loop.time()
            self._told = {each: at for each, at in self._told.items() if now - at < _AGAIN_S}
            ready = [each for each in self._waiting if each not in self._told][:_BATCH]
            for change in ready:
                del self._waiting[change]
                self._told[change] = now
            for frame in changes_frames(ready):
                self._announce.send(frame)
        self._wake()

    def _say(self) -> None:
        lost = self._lost + self._watch.overflows
        news = lost > self._said_lost or self._watch.unwatched > self._said_unwatched
        if not news or self._loop.time() < self._next_say:
            return
        self._next_say = self._loop.time() + _SAY_S
        if lost > self._said_lost:
            self._said_lost = lost
            self._tell(f"notify: changes were lost {lost} times: too many at once")
        if self._watch.unwatched > self._said_unwatched:
            self._said_unwatched = self._watch.unwatched
            self._tell(
                f"notify: {self._said_unwatched} folders are not watched: there are too many "
                "(fs.inotify.max_user_watches, and 8192 a guest)"
            )


async def open_notifier(
    plan: RunPlan, announce: AnnounceServer, tell: Callable[[str], None], stack: AsyncExitStack
) -> Notifier | None:
    """The notifier of a guest whose agent is there, closed by `stack`; None where none is wanted.

    :raise HostError: the user watches too many things already.
    """
    if not plan.machine.notify:
        return None
    notifier = Notifier(announce, tell)
    stack.callback(notifier.close)
    await notifier.follow(plan.shares.shares if plan.shares is not None else ())
    return notifier
