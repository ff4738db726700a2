# SPDX-License-Identifier: Apache-2.0
"""A program's output as a file, read while it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import IO, Self

from innkeeper.errors import HostError
from innkeeper.system.process import spawn

_ERROR_BYTES = 4096
_EXIT_TIMEOUT_S = 30.0


@contextlib.contextmanager
def program_output(
    argv: Sequence[str], *, stage: str, stdin_bytes: bytes = b""
) -> Iterator[IO[bytes]]:
    """Run a program and read its output as a file, without keeping it in memory.

    A block that does not read to the end ends the program. The program must be
    quiet: it may write up to a pipe's buffer (64 KiB) to stderr.

    :raise MissingProgram: the program does not exist.
    :raise HostError: the output was read to its end, and the program failed.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(_Pipe())
        errors = stack.enter_context(_Pipe())
        stdin = stack.enter_context(_memory_file(stdin_bytes)) if stdin_bytes else None
        child = spawn(
            argv,
            name=stage,
            stdin=stdin.fileno() if stdin else None,
            stdout=output.write_fd,
            stderr=errors.write_fd,
        )
        stack.callback(child.end)
        output.close_writer()
        errors.close_writer()
        yield output.reader
        if output.reader.read(1):
            return
        code = child.end(grace_s=0.0) if child.wait(_EXIT_TIMEOUT_S) is None else child.poll()
        if code != 0:
            lines = errors.reader.read(_ERROR_BYTES).decode("utf-8", "replace").strip()
            raise HostError(
                f"{argv[0]} failed with exit code {code}",
                stage=stage,
                evidence=tuple(lines.splitlines()[-8:]),
            )


class _Pipe:
    """A pipe whose reader is a file; both ends are closed with the context."""

    def __init__(self) -> None:
        read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        self.reader: IO[bytes] = os.fdopen(read_fd, "rb", buffering=1 << 20)

    def close_writer(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close_writer()
        self.reader.close()


def _memory_file(data: bytes) -> IO[bytes]:
    """The data as a file at its beginning: a program can read it at its own pace."""
    file: IO[bytes] = os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b", buffering=0)
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    file.seek(0)
    return file
