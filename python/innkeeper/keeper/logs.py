# SPDX-License-Identifier: Apache-2.0
"""A machine's logs: written by its keeper, read and followed by anybody on the host.

::

    console.log   1763693567.123456 | what the guest wrote
                  1763693568.000000 ! [inn: 512 bytes lost]
    guest.log     {"at": 1763693567.1, "source": "user", "text": "...", ...}
    keeper.log    {"at": 1763693567.1, "event": "state", "state": "running", ...}

All are rotated (`innkeeper.system.rotate`). What the keeper writes to its
stderr goes to keeper.log too; such lines have the time of the one before.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from innkeeper.agent.text import plain_line
from innkeeper.errors import UsageError
from innkeeper.keeper.messages import Event
from innkeeper.registry.layout import Layout, LogFolder
from innkeeper.registry.machines import guest_lives, load_machine, read_record
from innkeeper.system.descriptors import lead
from innkeeper.system.follow import FolderWatch
from innkeeper.system.rotate import RotatingFile, log_paths

Source = Literal["console", "guest", "keeper", "audit"]
LOG_SOURCES: tuple[Source, ...] = ("console", "guest", "keeper")

# Between the time and the text of a line of the console: whose line it is.
FROM_GUEST = b" | "
FROM_KEEPER = b" ! "
_STAMPED = re.compile(
    rb"(\d{10}\.\d{6})(" + FROM_GUEST.replace(b"|", rb"\|") + b"|" + FROM_KEEPER + b")"
)
# A keeper that was killed closes no file that would tell of it.
_LOOK_AGAIN_S = 1.0
_PIECE_BYTES = 64 * 1024
_STDERR = 2


class Line(msgspec.Struct, frozen=True):
    """One line of a log, safe to print.

    :ivar at: seconds since the epoch; 0 where it is unknown.
    :ivar lost: the keeper tells here of bytes that are missing.
    """

    source: Source
    at: float
    text: str
    lost: bool = False


class KeeperLog:
    """Where a keeper writes what it did, a JSON object a line; stderr goes along."""

    def __init__(self, path: Path) -> None:
        # Rotated, the old file would still get what is written to stderr.
        self._file = RotatingFile(path, note=_tell_lost, on_open=_lead, keep=1)

    def say(self, event: Event) -> None:
        """Log one event with the time."""
        value = {"at": round(time.time(), 6), **msgspec.to_builtins(event)}
        self._file.write(msgspec.json.encode(value) + b"\n")


def _lead(fd: int) -> None:
    with contextlib.suppress(OSError):
        lead(_STDERR, fd)


def _tell_lost(count: int) -> bytes:
    value = {"at": round(time.time(), 6), "event": "lost", "text": f"[inn: {count} bytes lost]"}
    return msgspec.json.encode(value) + b"\n"


def parse_line(source: Source, raw: bytes, before: float) -> Line:
    """A line of a log file, whatever stands in it.

    :param before: the time of the line before, for one that has none.
    """
    if source == "console":
        if match := _STAMPED.match(raw):
            text = plain_line(raw[match.end() :])
            return Line(source, float(match[1]), text, lost=match[2] == FROM_KEEPER)
        return Line(source, before, plain_line(raw))
    with contextlib.suppress(msgspec.DecodeError):
        value = msgspec.json.decode(raw)
        if isinstance(value, dict) and isinstance(value.get("at"), int | float):
            told = _TELL.get(source, _tell_event)(value)
            text = plain_line(told.encode())
            return Line(source, float(value["at"]), text, lost=value.get("event") == "lost")
    return Line(source, before, plain_line(raw))


def _tell_record(value: dict[str, Any]) -> str:
    text = str(value.get("text", ""))
    return f"kernel: {text}" if value.get("source") == "kernel" else text


def _tell_decision(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _tell_event(value: dict[str, Any]) -> str:
    match value:
        case {"event": "stage", "name": name, "seconds": seconds}:
            return f"stage {name} done after {seconds} s"
        case {"event": "state", "state": state}:
            return f"state {state}" + (f": {value['reason']}" if value.get("reason") else "")
        case {"event": "ready"}:
            warnings = value.get("warnings") or ()
            return "; ".join(["ready", *(f"warning: {text}" for text in warnings)])
        case {"event": "failed", "error": {"brief": brief}}:
            return f"failed: {brief}"
        case {"event": "lost", "text": text}:
            return str(text)
    return " ".join(f"{key}={told}" for key, told in value.items() if key not in ("at", "name"))


_TELL = {"guest": _tell_record, "audit": _tell_decision}


class LogReader:
    """Reads one log from its oldest line on, across rotations; call again for more.

    :ivar source: which log it is.
    :ivar missed: files were rotated away before they were read.
    """

    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self.source = source
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._at = 0.0
        self.missed = False

    def lines(self, *, ended: bool = False) -> Iterator[Line]:
        """The lines that are there and were not read yet.

        :param ended: nothing more will come: a last line without an end counts.
        """
        following = self._following()
        if self._file is not None:
            yield from self._drain(self._file)
        for file in following:
            self.close()
            self._file = file
            yield from self._drain(file)
        if ended and self._rest:
            yield self._line(self._rest)
            self._rest = b""

    def close(self) -> None:
        """Close the file that is open. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _following(self) -> list[IO[bytes]]:
        """The files after the open one, the oldest first.

        Opened from the newest on: what is rotated meanwhile is seen twice
        rather than not at all.
        """
        opened: list[IO[bytes]] = []
        seen: set[int] = set()
        current = os.fstat(self._file.fileno()).st_ino if self._file else -1
        found = self._file is None
        for path in log_paths(self._path):
            try:
                file = path.open("rb", buffering=0)
            except OSError:
                continue
            number = os.fstat(file.fileno()).st_ino
            if number == current:
                found = True
                file.close()
                break
            if number in seen:
                file.close()
                continue
            seen.add(number)
            opened.append(file)
        self.missed = self.missed or not found
        return opened[::-1]

    def _drain(self, file: IO[bytes]) -> Iterator[Line]:
        while piece := file.read(_PIECE_BYTES):
            *complete, self._rest = (self._rest + piece).split(b"\n")
            for raw in complete:
                yield self._line(raw)

    def _line(self, raw: bytes) -> Line:
        line = parse_line(self.source, raw, self._at)
        self._at = line.at
        return line


def machine_logs(layout: Layout, name: str) -> LogFolder:
    """Where a machine's logs are.

    :raise UnknownName: there is no such machine.
    :raise UsageError: it is a guest of `inn run`, which keeps none.
    """
    if not layout.machine(name).path.is_dir():
        read_record(layout, name)
        raise UsageError(
            f"the guest {name!r} of `inn run` keeps no logs",
            stage="logs",
            fix="`inn run --console FILE`, or a machine of `inn create`",
        )
    load_machine(layout, name)
    return layout.machine(name)


class Logs:
    """The logs of one guest. Close it."""

    def __init__(
        self, layout: Layout, name: str, folder: LogFolder, sources: tuple[Source, ...]
    ) -> None:
        paths: dict[Source, Path] = {
            "console": folder.console_log,
            "guest": folder.guest_log,
            "keeper": folder.keeper_log,
            "audit": folder.audit,
        }
        self._layout = layout
        self._name = name
        self._folder = folder.path
        self._readers = [LogReader(paths[source], source) for source in sources]

    def present(self, *, ended: bool = True) -> Iterator[Line]:
        """What is there and was not read yet, in the order of time."""
        import heapq

        streams = [reader.lines(ended=ended) for reader in self._readers]
        yield from heapq.merge(*streams, key=lambda line: line.at)
        for reader in self._readers:
            if reader.missed:
                reader.missed = False
                yield Line(reader.source, time.time(), "[inn: lines missed]", lost=True)

    def follow(self, *, reader_of: int = -1) -> Iterator[Line | None]:
        """All lines as they come, None before each wait, until the guest has ended.

        :param reader_of: where the lines are written to.
        :raise BrokenPipeError: nobody reads there any more.
        """
        with FolderWatch() as watch:
            watch.add(self._folder)
            watch.add(self._layout.runtime)
            while True:
                lives = guest_lives(self._layout, self._name)
                yield from self.present(ended=not lives)
                yield None
                if not lives:
                    return
                watch.wait(_LOOK_AGAIN_S, reader_of=reader_of)
                watch.take()

    def close(self) -> None:
        """Close the files. Idempotent."""
        for reader in self._readers:
            reader.close()
