# SPDX-License-Identifier: Apache-2.0
"""The session's loop against peers that misbehave. No peer here is a process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from innkeeper.agent import loop
from innkeeper.agent.frames import encode_frame
from innkeeper.agent.pb import vsh_pb2
from innkeeper.agent.session import Captured, Stdio, capture_session, run_session
from innkeeper.errors import GuestError, GuestLost, InnError, KeeperLost, ProtocolError, TimedOut
from innkeeper.model.machine import Command

COMMAND = Command(argv=("x",))
READY = encode_frame(
    vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=1).SerializeToString()
)


def data(content: bytes, stream: int = vsh_pb2.STDOUT_STREAM) -> bytes:
    message = vsh_pb2.HostMessage(data_message={"stream": stream, "data": content})  # type: ignore[arg-type]
    return encode_frame(message.SerializeToString())


def exited(code: int) -> bytes:
    message = vsh_pb2.HostMessage(status_message={"status": vsh_pb2.EXITED, "code": code})  # type: ignore[arg-type]
    return encode_frame(message.SerializeToString())


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our end and the guest's."""
    ours, guests = socket.socketpair()
    with ours, guests:
        yield ours, guests


@pytest.fixture
def watch() -> Iterator[Pair]:
    """The watched end, and the keeper's."""
    ours, keepers = socket.socketpair()
    with ours, keepers:
        yield ours, keepers


def test_everything_at_once(pair: Pair) -> None:
    pair[1].sendall(READY + data(b"a") + data(b"b", vsh_pb2.STDERR_STREAM) + exited(7))
    assert capture_session(pair[0], COMMAND) == Captured(7, b"a", b"b")


def test_output_before_the_loss_is_kept(pair: Pair) -> None:
    ours, guests = pair
    reader, writer = socket.socketpair()
    with reader, writer:
        guests.sendall(READY + data(b"last words"))
        guests.close()
        with pytest.raises(GuestLost, match="lost while the command ran"):
            run_session(ours, COMMAND, Stdio(-1, writer.fileno(), -1), tty=False)
        assert reader.recv(100) == b"last words"


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 8, encode_frame(b"\xff"), encode_frame(b""), b"HTTP/1.1 400\r\n"]
)
@pytest.mark.parametrize("start", [b"", READY])
def test_garbage(pair: Pair, start: bytes, garbage: bytes) -> None:
    pair[1].sendall(start + garbage)
    with pytest.raises(ProtocolError):
        capture_session(pair[0], COMMAND)


def test_guest_that_never_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SETUP_TIMEOUT_S", 0.05)
    with pytest.raises(GuestError, match="did not answer"):
        capture_session(pair[0], COMMAND)


def test_stdin_is_left_alone_until_the_command_runs(pair: Pair) -> None:
    failed = vsh_pb2.SetupConnectionResponse(status=vsh_pb2.FAILED, description="no")
    pair[1].sendall(encode_frame(failed.SerializeToString()))
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.sendall(b"for the next command")
        with pytest.raises(GuestError):
            capture_session(pair[0], COMMAND, stdin_fd=reader.fileno())
        assert reader.recv(100) == b"for the next command"


def test_time_limit_with_a_deaf_guest(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_TERM_GRACE_S", 0.05)
    pair[1].sendall(READY)
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.1 s"):
        capture_session(pair[0], COMMAND, deadline=begun + 0.1, timeout_s=0.1)
    assert time.monotonic() - begun >= 0.15
    signal = vsh_pb2.GuestMessage(signal=vsh_pb2.SIGNAL_TERM)
    assert encode_frame(signal.SerializeToString()) in pair[1].recv(4096)


def test_an_end_within_the_grace_is_late_too(pair: Pair) -> None:
    pair[1].sendall(READY + data(b"x") + exited(0))
    with pytest.raises(TimedOut, match="in time"):
        capture_session(pair[0], COMMAND, deadline=time.monotonic())


class TestWatch:
    def test_its_error_ends_the_session(self, pair: Pair, watch: Pair) -> None:
        pair[1].sendall(READY + data(b"x"))
        watch[1].sendall(b"!")
        with pytest.raises(KeeperLost):
            capture_session(
                pair[0], COMMAND, watch_fd=watch[0].fileno(), on_watch=lambda: KeeperLost("gone")
            )

    def test_what_the_guest_sent_before_counts(self, pair: Pair, watch: Pair) -> None:
        """A guest that powers off right after the command: its code is the result."""
        pair[1].sendall(READY + data(b"x") + exited(3))
        watch[1].close()
        got = capture_session(
            pair[0], COMMAND, watch_fd=watch[0].fileno(), on_watch=lambda: GuestLost("off")
        )
        assert got == Captured(3, b"x", b"")

    def test_none_goes_on(self, pair: Pair, watch: Pair) -> None:
        def read_one() -> None:
            assert watch[0].recv(1) == b"!"
            pair[1].sendall(exited(4))

        pair[1].sendall(READY)
        watch[1].sendall(b"!")
        got = capture_session(pair[0], COMMAND, watch_fd=watch[0].fileno(), on_watch=read_one)
        assert got.code == 4

    def test_a_closed_one_is_asked_for_its_last_words(self, pair: Pair, watch: Pair) -> None:
        asked: list[int] = []

        def on_watch() -> None:
            if not asked:
                pair[1].sendall(READY + exited(5))
            asked.append(1)

        watch[1].close()
        got = capture_session(pair[0], COMMAND, watch_fd=watch[0].fileno(), on_watch=on_watch)
        assert got.code == 5
        assert 1 < len(asked) < 100

    def test_it_explains_a_lost_connection(self, pair: Pair, watch: Pair) -> None:
        def explain() -> InnError:
            watch[0].recv(1)
            return GuestError("the guest's kernel panicked")

        pair[1].sendall(READY)
        pair[1].close()
        asked = threading.Timer(0.1, lambda: watch[1].sendall(b"!"))
        asked.start()
        with pytest.raises(GuestError, match="panicked"):
            capture_session(pair[0], COMMAND, watch_fd=watch[0].fileno(), on_watch=explain)
        asked.join()

    def test_it_may_say_nothing(
        self, pair: Pair, watch: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "_EXPLAIN_S", 0.05)
        pair[1].close()
        with pytest.raises(GuestLost):
            capture_session(pair[0], COMMAND, watch_fd=watch[0].fileno())


def test_backpressure_is_bounded_in_both_directions(pair: Pair) -> None:
    """A guest that takes nothing gets a bounded part of an endless stdin."""
    ours, guests = pair
    guests.sendall(READY)
    with open("/dev/zero", "rb") as zero, pytest.raises(TimedOut):  # noqa: PTH123 - a device
        capture_session(ours, COMMAND, stdin_fd=zero.fileno(), deadline=time.monotonic())
    ours.close()
    guests.settimeout(5)
    total = 0
    while chunk := guests.recv(1 << 20):
        total += len(chunk)
    assert total < 2 << 20


def test_order_is_kept_where_both_streams_are_one(pair: Pair) -> None:
    err = vsh_pb2.STDERR_STREAM
    pair[1].sendall(READY + data(b"1") + data(b"2", err) + data(b"3") + data(b"4", err) + exited(0))
    reader, writer = socket.socketpair()
    with reader, writer:
        both = writer.fileno()
        assert run_session(pair[0], COMMAND, Stdio(-1, both, both), tty=False) == 0
        assert reader.recv(100) == b"1234"


def test_peer_in_pieces(pair: Pair) -> None:
    """Frames cut anywhere."""
    stream = READY + data(b"abc") + exited(0)

    def dribble() -> None:
        for position in range(len(stream)):
            pair[1].sendall(stream[position : position + 1])

    with closing(pair[1]):
        feeder = threading.Thread(target=dribble)
        feeder.start()
        assert capture_session(pair[0], COMMAND).stdout == b"abc"
        feeder.join()
