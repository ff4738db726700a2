# SPDX-License-Identifier: Apache-2.0
"""The loop of one session: the protocol of `vsh` between a socket and descriptors.

One thread, one `poll` loop. Each direction has a bounded buffer of its own, so
a slow reader of stdout never keeps stdin from flowing, nor the reverse.
"""

from __future__ import annotations

import time

from innkeeper.agent.surroundings import Surroundings
from innkeeper.agent.vsh import (
    STDERR,
    STDOUT,
    Event,
    Exited,
    Failed,
    Output,
    SessionProtocol,
    Started,
    failure_to_error,
)
from innkeeper.errors import GuestError, GuestLost, InnError
from innkeeper.model.machine import Command
from innkeeper.system import signals
from innkeeper.system.pump import Channel, Poller, Ready, Sink, Source, StreamSocket

# stdin waits while this much is on its way to the guest.
_OUTGOING_LIMIT = 256 << 10
# The guest waits while this much waits for a slow reader here.
_INCOMING_LIMIT = 1 << 20
_SETUP_TIMEOUT_S = 30.0
# From the SIGTERM after the time limit to closing the connection.
_TERM_GRACE_S = 1.0
# How long the watch may take to explain a lost connection.
_EXPLAIN_S = 2.0
# So many words of a watch that hung up are heard.
_LAST_WORDS_LIMIT = 64
# A second SIGINT or SIGTERM gives the session up, this long after the first.
_IMPATIENCE_S = 2.0
_GIVE_UP = (signals.INTERRUPT, signals.TERMINATE)


class Session:
    """One session from its setup to its exit code. Use :meth:`run` once."""

    def __init__(
        self,
        sock: StreamSocket,
        protocol: SessionProtocol,
        command: Command,
        *,
        stdin: Source | None,
        stdout: Sink,
        stderr: Sink,
        around: Surroundings,
    ) -> None:
        self._channel = Channel(sock)
        self._protocol = protocol
        self._command = command
        self._stdin = stdin
        self._sinks: dict[int, Sink] = {STDOUT: stdout, STDERR: stderr}
        self._around = around
        self._watch = around.watch
        self._poller = Poller()
        self._code: int | None = None
        self._connected = True
        # The keys that leave the session were typed.
        self._left = False
        # Set when a second signal came: give up then, with this code.
        self._abort: tuple[float, int] | None = None
        self._first_signal: float | None = None
        # Set when the time limit passed: the end of the grace.
        self._grace_end: float | None = None
        self._setup_end = time.monotonic() + _SETUP_TIMEOUT_S
        # Meaningful once the connection is over: how long to wait for the reason,
        # and, with the reason known, for a slow reader of the rest.
        self._lost_end = 0.0
        self._error: InnError | None = None

    def run(self) -> int:
        """The exit code, after all output has been written.

        :raise InnError: the session ended in another way.
        """
        self._channel.queue(self._protocol.setup())
        self._channel.flush()
        while True:
            if self._code is not None and not self._pending():
                return self._code
            self._check_times()
            if self._abort is not None and time.monotonic() >= self._abort[0]:
                return self._abort[1]
            ended = self._step()
            if ended is not None:
                return ended

    @property
    def has_ended(self) -> bool:
        """The command is known to have ended."""
        return self._code is not None

    def _pending(self) -> bool:
        return any(sink.pending for sink in self._sinks.values())

    def _step(self) -> int | None:
        """Wait once and serve what is ready; an exit code ends the session."""
        stdin = self._stdin_wanted()
        ready = self._wait(stdin)
        if self._around.signals.fd in ready:
            code = self._take_signals()
            if code is not None:
                return code
        if not self._serve(ready):
            return 128 + signals.BROKEN_PIPE
        if stdin is not None and (stdin.fd < 0 or stdin.fd in ready):
            self._read_stdin(stdin)
        if self._channel.pending:
            self._channel.flush()
        return 0 if self._left else None

    def _wait(self, stdin: Source | None) -> dict[int, Ready]:
        read = [self._around.signals.fd, self._watch.fd if self._watch else -1]
        if self._room():
            read.append(self._channel.fd)
        if stdin is not None:
            read.append(stdin.fd)
        write = [sink.fd for sink in self._sinks.values() if sink.pending]
        if self._channel.pending:
            write.append(self._channel.fd)
        at_once = stdin is not None and stdin.fd < 0
        return self._poller.wait(
            read=[fd for fd in read if fd >= 0],
            write=write,
            timeout_s=0.0 if at_once else self._time_left(),
        )

    def _serve(self, ready: dict[int, Ready]) -> bool:
        """Watch, sinks and the guest; False as in `_write`."""
        alive = True
        if self._watch is not None and self._watch.fd in ready:
            alive = self._ask_watch(hung_up=ready[self._watch.fd].hung_up)
        for stream in (STDOUT, STDERR):
            sink = self._sinks[stream]
            if alive and sink.pending and sink.fd in ready:
                alive = self._write(stream, sink, polled=True)
        if alive and self._channel.fd in ready:
            alive = self._receive()
        return alive

    # What to wait for

    def _room(self) -> bool:
        return (
            self._connected
            and self._code is None
            and all(sink.pending < _INCOMING_LIMIT for sink in self._sinks.values())
        )

    def _stdin_wanted(self) -> Source | None:
        """stdin, if its bytes have somewhere to go.

        Nothing is read for a command that may not exist: the bytes may be meant
        for the next one.
        """
        wanted = (
            self._protocol.started
            and self._connected
            and self._code is None
            and self._channel.pending < _OUTGOING_LIMIT
        )
        return self._stdin if wanted else None

    def _time_left(self) -> float | None:
        limit = self._around.limit
        times = [
            self._grace_end if self._grace_end is not None else (limit.ends if limit else None),
            self._abort[0] if self._abort else None,
            self._setup_end if self._waits_for_setup() else None,
            self._lost_end if self._waits_for_reason() else None,
        ]
        known = [moment for moment in times if moment is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _waits_for_setup(self) -> bool:
        return not self._protocol.started and self._connected and self._code is None

    def _waits_for_reason(self) -> bool:
        return not self._connected and (self._error is not None or not self._pending())

    def _check_times(self) -> None:
        now = time.monotonic()
        self._check_limit(now)
        if self._waits_for_setup() and now >= self._setup_end:
            raise GuestError(
                f"the guest's agent did not answer within {_SETUP_TIMEOUT_S:g} s", stage="session"
            )
        if self._code is not None:
            return
        if self._error is not None and (now >= self._lost_end or not self._pending()):
            raise self._error
        if not self._connected and now >= self._lost_end and not self._pending():
            raise GuestLost("the connection to the guest was lost while the command ran")

    def _check_limit(self, now: float) -> None:
        """Past the time limit, ask the command to end; past the grace, stop."""
        limit = self._around.limit
        if limit is None or now < limit.ends:
            return
        if self._grace_end is None and self._code is None and self._connected:
            self._channel.queue(self._protocol.signal(signals.TERMINATE), urgent=True)
            self._channel.flush()
            self._grace_end = now + _TERM_GRACE_S
        elif self._grace_end is None or now >= self._grace_end:
            raise limit.error()

    # What is ready

    def _take_signals(self) -> int | None:
        for number in self._around.signals.take():
            if number == signals.WINDOW_CHANGE:
                self._channel.queue(self._protocol.resize(self._around.window()), urgent=True)
                continue
            if self._around.has_terminal or self._code is not None or not self._connected:
                # A terminal's keys travel as bytes: this came from elsewhere and
                # means us. Without a command, nobody is left to forward to.
                return 128 + number
            self._channel.queue(self._protocol.signal(number), urgent=True)
            now = time.monotonic()
            if number in _GIVE_UP:
                if self._first_signal is None:
                    self._first_signal = now
                elif self._abort is None:
                    self._abort = (max(now, self._first_signal + _IMPATIENCE_S), 128 + number)
        return None

    def _ask_watch(self, *, hung_up: bool) -> bool:
        """Hear what the watch says; False as in `_write`.

        What the guest sent before it ended is still taken and written.
        """
        assert self._watch is not None
        error = self._watch.on_ready()
        for _ in range(_LAST_WORDS_LIMIT if hung_up else 0):
            # Poll cannot tell last words from the end after them.
            error = error or self._watch.on_ready()
        if error is not None or hung_up:
            self._watch = None  # it has nothing more to say
        if error is None:
            return True
        alive = True
        while alive and self._room() and (data := self._channel.receive()):
            alive = self._take(data)
        self._error = error
        self._connected = False
        self._lost_end = time.monotonic() + _EXPLAIN_S
        return alive

    def _write(self, stream: int, sink: Sink, *, polled: bool) -> bool:
        """False when stdout has no reader any more. Without one, stderr is dropped."""
        try:
            sink.flush(polled=polled)
        except BrokenPipeError:
            if stream == STDOUT:
                return False
            self._sinks[STDERR] = Discard()
        return True

    def _receive(self) -> bool:
        """Take what the guest sent; False as in `_write`."""
        if not self._room():
            return True
        data = self._channel.receive()
        if data is None:
            return True
        if not data:
            self._lose()
            return True
        return self._take(data)

    def _take(self, data: bytes) -> bool:
        # What was full before is left to poll.
        waited = {stream for stream, sink in self._sinks.items() if sink.pending}
        latest = STDOUT
        alive = True
        for event in self._protocol.receive(data):
            if isinstance(event, Output) and event.stream != latest:
                # Both may be the same pipe: the order of arrival is kept.
                alive = self._write_some(latest, waited) and alive
                latest = event.stream
            self._handle(event)
        return self._write_some(latest, waited) and alive

    def _write_some(self, stream: int, waited: set[int]) -> bool:
        sink = self._sinks[stream]
        if stream in waited or not sink.pending:
            return True
        return self._write(stream, sink, polled=False)

    def _handle(self, event: Event) -> None:
        match event:
            case Output(stream, data):
                self._sinks[stream].put(data)
            case Exited(code):
                # After the time limit, an end is no success.
                if self._grace_end is None:
                    self._code = code
                else:
                    self._grace_end = 0.0
            case Started():
                self._around.on_started(event)
            case Failed():
                raise self._failure(event)
            case _:
                pass  # the end of one stream says nothing about the other

    def _failure(self, failed: Failed) -> InnError:
        if self._around.failure is not None:
            return self._around.failure(failed)
        return failure_to_error(failed, self._command, started=self._protocol.started)

    def _lose(self) -> None:
        """The connection is over without an exit code: let the watch say why."""
        self._connected = False
        if self._grace_end is not None:
            self._grace_end = 0.0  # it was asked to end
        self._lost_end = time.monotonic() + (_EXPLAIN_S if self._watch is not None else 0.0)

    def _read_stdin(self, stdin: Source) -> None:
        data = stdin.read()
        keys = self._around.keys
        if data and keys is not None:
            data = keys.feed(data) or None
            self._left = keys.complete
        if data:
            self._channel.queue(self._protocol.stdin(data))
        elif data is not None:
            self._channel.queue(self._protocol.stdin_eof())
            self._stdin = None


class Discard:
    """A sink that swallows everything."""

    fd = -1
    pending = 0

    def put(self, data: bytes) -> None:
        """Drop the bytes."""

    def flush(self, *, polled: bool) -> None:
        """Nothing waits."""
