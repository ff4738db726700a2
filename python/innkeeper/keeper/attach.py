# SPDX-License-Identifier: Apache-2.0
"""Sitting at a guest's console: our stdin and stdout, and the keeper's connection between.

The bytes go both ways as they are. Only the escape key is ours, and only
where stdin is a terminal: what a pipe carries is data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from innkeeper.errors import UsageError
from innkeeper.keeper.client import console_connection
from innkeeper.registry.layout import Layout
from innkeeper.system import signals, terminal
from innkeeper.system.pump import Channel, InputStream, OutputStream, Poller, Ready, StreamSocket

# The guest's side waits while this much is on its way, ours while this much
# waits for a slow reader.
_TYPED_LIMIT = 64 << 10
_SHOWN_LIMIT = 256 << 10
_INTERRUPT_KEY = b"\x03"
_ENDING = (signals.INTERRUPT, signals.TERMINATE, signals.HANGUP, signals.QUIT)

By = Literal["guest", "key", "signal", "reader"]


class End(msgspec.Struct, frozen=True):
    """How it ended.

    :ivar by: the guest (its keeper closed), the escape key, a signal to us, or
        a stdout that nobody reads any more.
    :ivar code: the exit code that says so.
    """

    by: By
    code: int = 0


def parse_escape(text: str) -> bytes:
    """The key of "^]" (Ctrl-]) or of one character; b"" of "none".

    :raise UsageError: it is neither.
    """
    if text == "none":
        return b""
    if len(text) == 2 and text[0] == "^" and "@" <= text[1].upper() <= "_":
        return bytes([ord(text[1].upper()) - 0x40])
    if len(text) == 1 and text.isascii():
        return text.encode()
    raise UsageError(
        f"{text!r} is not an escape key", fix="write it as ^] for Ctrl-], one character, or none"
    )


def key_name(key: bytes) -> str:
    """The key as people call it: "Ctrl-]"."""
    return f"Ctrl-{chr(key[0] + 0x40)}" if key[0] < 0x20 else key.decode()


def attach(
    layout: Layout,
    name: str,
    *,
    read_only: bool,
    escape: bytes,
    on_attached: Callable[[], None] = lambda: None,
) -> End:
    """Sit at the console of a running guest with our stdin and stdout.

    Where stdin is a terminal, it is in raw mode meanwhile, and left as it was
    found. The end of a stdin that is none leaves the output flowing.

    :param read_only: send nothing; Ctrl-C then detaches as the escape key does.
    :param escape: the key that detaches; b"" is none.
    :param on_attached: called once the keeper has let us in.
    :raise InnError: the keeper cannot be reached, or refused.
    """
    with contextlib.ExitStack() as stack:
        sock, first = stack.enter_context(
            console_connection(layout, name, read_only=read_only),
        )
        on_attached()
        # Handlers first, raw mode second: between them a signal could end us
        # without the terminal being restored.
        caught = stack.enter_context(signals.SignalWatch(_ENDING))
        stdin = InputStream(0)
        stack.callback(stdin.close)
        stdout = OutputStream(1, name="stdout")
        stack.callback(stdout.close)
        keys = b""
        if terminal.is_terminal(0):
            stack.enter_context(terminal.raw_mode(0))
            keys = escape + (_INTERRUPT_KEY if read_only else b"")
        stdout.put(first)
        return _Seat(sock, stdin, stdout, caught, keys=keys, sends=not read_only).run()


@contextlib.contextmanager
def _told_broken() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise _EndedError(End("reader", 128 + signals.BROKEN_PIPE)) from None


class _EndedError(Exception):
    def __init__(self, end: End) -> None:
        super().__init__(end.by)
        self.end = end


class _Seat:
    """The loop: one thread, one poll, a bounded buffer in each direction."""

    def __init__(
        self,
        sock: StreamSocket,
        stdin: InputStream,
        stdout: OutputStream,
        caught: signals.SignalWatch,
        *,
        keys: bytes,
        sends: bool,
    ) -> None:
        self._channel = Channel(sock)
        self._stdin: InputStream | None = stdin if sends or keys else None
        self._stdout = stdout
        self._caught = caught
        self._keys = keys
        self._sends = sends
        self._connected = True
        self._poller = Poller()

    def run(self) -> End:
        """Until one of the ends."""
        try:
            while self._connected or self._stdout.pending:
                self._step()
        except _EndedError as ended:
            return ended.end
        return End("guest")

    def _step(self) -> None:
        stdin = self._stdin if self._connected and self._channel.pending < _TYPED_LIMIT else None
        ready = self._wait(stdin)
        if self._caught.fd in ready:
            for number in self._caught.take():
                raise _EndedError(End("signal", 128 + number))
        if self._stdout.pending:
            with _told_broken():
                self._stdout.flush(polled=self._stdout.fd in ready)
        if self._connected and self._channel.fd in ready:
            self._show()
        if stdin is not None and (stdin.fd < 0 or stdin.fd in ready):
            self._type(stdin)
        if self._channel.pending:
            self._channel.flush()

    def _wait(self, stdin: InputStream | None) -> dict[int, Ready]:
        read = [self._caught.fd]
        if self._connected and self._stdout.pending < _SHOWN_LIMIT:
            read.append(self._channel.fd)
        if stdin is not None:
            read.append(stdin.fd)
        write = [self._stdout.fd] if self._stdout.pending else []
        if self._connected and self._channel.pending:
            write.append(self._channel.fd)
        at_once = stdin is not None and stdin.fd < 0
        return self._poller.wait(
            read=[fd for fd in read if fd >= 0], write=write, timeout_s=0.0 if at_once else None
        )

    def _show(self) -> None:
        if self._stdout.pending >= _SHOWN_LIMIT:
            return
        data = self._channel.receive()
        if data == b"":
            self._connected = False
        elif data:
            self._stdout.put(data)
            with _told_broken():
                self._stdout.flush(polled=False)

    def _type(self, stdin: InputStream) -> None:
        data = stdin.read()
        if data is None:
            return
        if not data:
            # What a pipe held is sent; what the guest says is still worth seeing.
            self._stdin = None
            return
        cut = min((at for key in self._keys if (at := data.find(key)) >= 0), default=len(data))
        if self._sends and cut:
            self._channel.queue(data[:cut])
            self._channel.flush()
        if cut < len(data):
            raise _EndedError(End("key"))
