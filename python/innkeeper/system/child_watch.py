# SPDX-License-Identifier: Apache-2.0
"""A child of the event loop: its end as a future, and what it said on stderr."""

from __future__ import annotations

import asyncio

from innkeeper.system.process import Child

# Our children say little; a guest cannot make them say more than this in memory.
_STDERR_LIMIT = 16 * 1024


class ChildWatch:
    """Owns a child and watches it from :meth:`exited` until :meth:`end`."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._exited: asyncio.Future[int] | None = None
        self._stderr = bytearray()

    def exited(self) -> asyncio.Future[int]:
        """A future with the return code, set when the child ends; -1 where it is unknown."""
        if self._exited is None:
            loop = asyncio.get_running_loop()
            self._exited = loop.create_future()
            loop.add_reader(self.child.pidfd, self._on_exit)
            if self.child.stderr_fd >= 0:
                loop.add_reader(self.child.stderr_fd, self._read_stderr)
        return self._exited

    def stderr_lines(self) -> tuple[str, ...]:
        """What the child said on stderr so far (the first 16 KiB), for evidence."""
        self._read_stderr()
        return tuple(self._stderr.decode("utf-8", "replace").strip().splitlines())

    def end(self) -> int:
        """Kill the child if it runs, reap it and close its descriptors. Idempotent."""
        self._read_stderr()
        if self._exited is not None:
            loop = asyncio.get_running_loop()
            for fd in (self.child.pidfd, self.child.stderr_fd):
                if fd >= 0:
                    loop.remove_reader(fd)
        code = self.child.end()
        self._settle(code)
        return code

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self.child.pidfd)
        code = self.child.wait(1.0)
        self._settle(-1 if code is None else code)

    def _settle(self, code: int) -> None:
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(code)

    def _read_stderr(self) -> None:
        chunk = self.child.read_stderr()
        while chunk:
            self._stderr += chunk[: _STDERR_LIMIT - len(self._stderr)]
            chunk = self.child.read_stderr()
        if chunk == b"" and self.child.stderr_fd >= 0 and self._exited is not None:
            # End of file keeps a pipe readable for ever.
            asyncio.get_running_loop().remove_reader(self.child.stderr_fd)
