# SPDX-License-Identifier: Apache-2.0
"""A guest's clock and time zone, kept at the host's while it runs.

::

    host's clock set, host resumed ──timerfd──┐
                                              ├──> announcement ──> agent
    /etc/localtime changed ──────────inotify──┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from innkeeper.errors import HostError
from innkeeper.system.clock import ClockWatch
from innkeeper.system.follow import FolderWatch
from innkeeper.system.zone import (
    UTC,
    Zone,
    environment_zone,
    host_zone,
    localtime_path,
    named_zone,
)


class Listener(Protocol):
    """Whoever tells the guest: the announcement's server."""

    def say_clock(self) -> None:
        """Tell it the time."""

    def set_zone(self, name: str, tzif: bytes) -> None:
        """Tell it its zone."""


class Watch(Protocol):
    """A descriptor that is readable when the clock jumped."""

    fd: int

    def take(self) -> bool:
        """Whether it did."""

    def close(self) -> None:
        """Stop watching."""


def choose_zone(wanted: str) -> Zone | None:
    """The zone that a machine's setting `timezone` means now; None leaves the guest's alone."""
    if wanted == "guest":
        return None
    if wanted == "utc":
        return UTC
    # A name was looked up before the start; a file that went since is no reason to fail.
    return host_zone() if wanted == "host" else named_zone(wanted)


class HostTime:
    """Tells one guest its zone, then of the host's changes. Close it.

    A host that cannot be watched is told, and no reason to give the guest up.

    :param timezone: the machine's setting.
    :param tell: called with a line for each change.
    """

    def __init__(
        self,
        listener: Listener,
        timezone: str,
        *,
        tell: Callable[[str], None],
        watch_clock: Callable[[], Watch] = ClockWatch,
    ) -> None:
        self._listener = listener
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._clock: Watch | None = None
        self._folder: FolderWatch | None = None
        self._zone = choose_zone(timezone)
        if self._zone is not None:
            listener.set_zone(self._zone.name, self._zone.tzif)
        try:
            self._clock = watch_clock()
            self._loop.add_reader(self._clock.fd, self._on_clock)
            # TZ of this process does not change while it lives.
            if timezone == "host" and environment_zone() is None:
                self._folder = FolderWatch()
                self._folder.add(localtime_path().parent)
                self._loop.add_reader(self._folder.fd, self._on_folder)
                # What changed before it was watched.
                self._look()
        except HostError as error:
            tell(f"the guest does not follow the host's time: {error.brief}")

    def close(self) -> None:
        """Stop following. Idempotent."""
        for watch in (self._clock, self._folder):
            if watch is not None and watch.fd >= 0:
                self._loop.remove_reader(watch.fd)
                watch.close()

    def _on_clock(self) -> None:
        if self._clock is not None and self._clock.take():
            self._tell("the host's clock jumped; the guest is told the time")
            self._listener.say_clock()

    def _on_folder(self) -> None:
        path = localtime_path()
        if self._folder is not None and self._folder.take() & {path, path.parent}:
            self._look()

    def _look(self) -> None:
        zone = host_zone()
        if zone != self._zone:
            self._zone = zone
            self._tell(f"the time zone is {zone.name or 'another'} now")
            self._listener.set_zone(zone.name, zone.tzif)
