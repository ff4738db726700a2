# SPDX-License-Identifier: Apache-2.0
"""stdin and stdout as one socket, for a library that serves sockets only.

Two threads copy, each blocking until the other side has taken what it holds,
so no more than one piece a direction waits here.
"""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType
from typing import Self

from innkeeper.system.sockets import stream_pair

_PIECE_BYTES = 64 << 10


class StdioSocket:
    """A socket whose other end is our stdin and stdout.

    :ivar sock: belongs to the caller, who closes it.
    """

    def __init__(self, stdin: int = 0, stdout: int = 1) -> None:
        self.sock, self._inner = stream_pair()
        self._threads = [
            threading.Thread(target=self._bring, args=(stdin,), daemon=True),
            threading.Thread(target=self._take, args=(stdout,), daemon=True),
        ]

    def _bring(self, stdin: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(stdin, _PIECE_BYTES):
                self._inner.sendall(data)
        self._shut(1)

    def _take(self, stdout: int) -> None:
        with contextlib.suppress(OSError):
            while data := self._inner.recv(_PIECE_BYTES):
                left = memoryview(data)
                while left:
                    left = left[os.write(stdout, left) :]
        # Nobody reads any more: what is still sent must fail, not wait.
        self._shut(0)

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self._inner.shutdown(how)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def finish(self, timeout_s: float) -> None:
        """Wait until stdout has taken everything; call it when `sock` is closed."""
        self._threads[1].join(timeout_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The thread at stdin may wait for bytes for ever; it ends with the process.
        self._shut(2)
