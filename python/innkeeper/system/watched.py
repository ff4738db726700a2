# SPDX-License-Identifier: Apache-2.0
"""Running a program that takes long: its lines as they come, its end with ours."""

from __future__ import annotations

import collections
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from innkeeper.errors import HostError, MissingProgram
from innkeeper.system.process import Child, spawn

_LINES_KEPT = 200
_LINE_MAXIMUM_BYTES = 4096
_READ_BYTES = 1 << 16
# After a kill, what the program had started closes the pipe when it is gone too.
_GONE_LIMIT_S = 10.0


class Failed(HostError):
    """A watched program returned non-zero.

    :ivar returncode: -N after signal N.
    :ivar lines: the last lines that it wrote.
    """

    def __init__(self, program: str, returncode: int, lines: tuple[str, ...], stage: str) -> None:
        super().__init__(
            f"{program} failed with exit code {returncode}", stage=stage, evidence=lines[-8:]
        )
        self.returncode = returncode
        self.lines = lines


def run_watched(
    argv: Sequence[str],
    *,
    stage: str,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    packages: str = "",
) -> tuple[str, ...]:
    """Run a program to its end; returns the last lines of its stderr and stdout.

    It has a session of its own, so that Ctrl-C reaches us alone; an exception that
    comes here kills it and waits until all it started is gone.

    :param on_line: called with each line.
    :param packages: what to install where the program is missing.
    :raise MissingProgram: the program does not exist.
    :raise Failed: it returned non-zero.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            child = spawn(
                argv, name=stage, env=env, stdout=write_fd, stderr=write_fd, new_session=True
            )
        except MissingProgram as exc:
            fix = f"apt-get install {packages or argv[0]}"
            raise MissingProgram(exc.brief, stage=stage, fix=fix) from exc
        finally:
            os.close(write_fd)
        kept: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        try:
            for line in _lines(read_fd):
                kept.append(line)
                if on_line is not None:
                    on_line(line)
            # It closed its output, so it is about to end.
            child.wait(_GONE_LIMIT_S)
            code = child.end()
        except BaseException:
            _end_all(child, read_fd)
            raise
    finally:
        os.close(read_fd)
    if code != 0:
        raise Failed(_program(argv), code, tuple(kept), stage)
    return tuple(kept)


def _program(argv: Sequence[str]) -> str:
    """The program that does the work: what comes after the `--` of one that prepares for it."""
    return argv[argv.index("--") + 1] if "--" in argv[:-1] and argv[0] == "unshare" else argv[0]


def _lines(fd: int) -> Iterator[str]:
    rest = b""
    while data := os.read(fd, _READ_BYTES):
        *whole, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        rest = rest[-_LINE_MAXIMUM_BYTES:]
        yield from (_text(line) for line in whole if line.strip())
    if rest.strip():
        yield _text(rest)


def _text(line: bytes) -> str:
    text = line[:_LINE_MAXIMUM_BYTES].decode("utf-8", "replace").rstrip()
    return "".join(char if char.isprintable() else " " for char in text)


def _end_all(child: Child, read_fd: int) -> None:
    child.end()
    deadline = time.monotonic() + _GONE_LIMIT_S
    poller = select.poll()
    poller.register(read_fd, select.POLLIN)
    while poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if not os.read(read_fd, _READ_BYTES):
            return
