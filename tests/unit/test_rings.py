# SPDX-License-Identifier: Apache-2.0
"""The client of rings against a board that answers as it is told; no guest, no real board."""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from innkeeper.rings import ANY, Address, Event, Flags, Message, Rings

Answer = tuple[int, bytes]
HELLO = struct.pack("<HHIII", 7, 0, 1 << 20, 1 << 20, 1024)


def event(what: int, *, port: int = 80, partner: int = ANY, owner: int = 7) -> bytes:
    return struct.pack("<IBIIHHB", 14, 0x81, 0, port, partner, owner, what)


def slots(*messages: tuple[int, int, int, bytes]) -> bytes:
    """Messages of (domain, port, type, data) as they lie in a ring."""
    found = b""
    for domain, port, kind, data in messages:
        found += struct.pack("<IIHHI", 16 + len(data), port, domain, 0, kind) + data
        found += bytes(-len(data) % 16)
    return found


class FakeBoard:
    """Answers each request with what `reply` returns; keeps the requests."""

    def __init__(self) -> None:
        self.client, self.stream = socket.socketpair()
        self.requests: list[tuple[int, bytes]] = []
        self.reply: Callable[[int, bytes], Answer] = lambda _kind, _body: (0, b"")
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with self.stream, self.stream.makefile("rb") as source:
            while head := source.read(9):
                length, kind, tag = struct.unpack("<IBI", head)
                body = source.read(length - 5)
                result, rest = (0, HELLO) if kind == 1 else self.reply(kind, body)
                self.requests.append((kind, body))
                frame = struct.pack("<IBIi", 9 + len(rest), 0x80, tag, result) + rest
                # In two parts, as streams may cut anywhere.
                self.stream.sendall(frame[:7])
                self.stream.sendall(frame[7:])

    def tell(self, *frames: bytes) -> None:
        self.stream.sendall(b"".join(frames))


@pytest.fixture
def board() -> Iterator[FakeBoard]:
    board = FakeBoard()
    yield board
    board.client.close()
    board.thread.join(10)


@pytest.fixture
def rings(board: FakeBoard) -> Iterator[Rings]:
    with Rings(board.client) as rings:
        yield rings


def test_requests_have_the_bytes_of_the_protocol(board: FakeBoard, rings: Rings) -> None:
    board.reply = lambda kind, _: (0, struct.pack("<I", 0x80000001)) if kind == 7 else (5, b"")
    assert rings.domain == 7
    rings.register(80, 3, size_bytes=4096, flags=1)
    rings.unregister(80, 3)
    assert rings.sendv((7, 9), (3, 80), [b"ab", b"cde"], 42) == 5
    assert rings.bind() == 0x80000001
    assert board.requests == [
        (1, bytes.fromhex("01000000")),
        (2, bytes.fromhex("50000000 0300 0000 00100000 02000000 01000000")),
        (3, bytes.fromhex("50000000 0300 0000")),
        (
            4,
            bytes.fromhex("09000000 0700 0000 50000000 0300 0000 2a000000 02000000")
            + bytes.fromhex("02000000 03000000")
            + b"abcde",
        ),
        (7, bytes(4)),
    ]


def test_a_refusal_is_an_oserror_with_its_number(board: FakeBoard, rings: Rings) -> None:
    refusals: list[tuple[int, type[OSError]]] = [
        (errno.ECONNREFUSED, ConnectionRefusedError),
        (errno.EPERM, PermissionError),
        (errno.EMSGSIZE, OSError),
    ]
    numbers = iter([number for number, _ in refusals])
    board.reply = lambda _kind, _body: (-next(numbers), b"")
    for number, kind in refusals:
        with pytest.raises(kind) as caught:
            rings.sendv((7, 9), (3, 80), [b"x"])
        assert caught.value.errno == number


def test_received_messages_are_taken_apart(board: FakeBoard, rings: Rings) -> None:
    body = slots((3, 9, 1, b""), (4, 10, 2, b"x" * 17), (3, 9, 0xFFFFFFFF, b"y" * 16))
    board.reply = lambda _kind, _body: (3, body)
    assert rings.receive(80) == [
        Message(Address(3, 9), 1, b""),
        Message(Address(4, 10), 2, b"x" * 17),
        Message(Address(3, 9), 0xFFFFFFFF, b"y" * 16),
    ]


@pytest.mark.parametrize("length", [0, 15, 33, 0xFFFFFFFF])
def test_a_message_that_is_none_is_refused(board: FakeBoard, rings: Rings, length: int) -> None:
    body = struct.pack("<IIHHI", length, 9, 3, 0, 0) + bytes(16)
    board.reply = lambda _kind, _body: (1, body)
    with pytest.raises(OSError, match="none") as caught:
        rings.receive(80)
    assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize("length", [0, 4, (1 << 20) + (64 << 10) + 1, 0xFFFFFFFF])
def test_a_frame_that_is_none_is_refused(board: FakeBoard, rings: Rings, length: int) -> None:
    board.tell(struct.pack("<IBI", length, 0x81, 0))
    with pytest.raises(OSError, match="none"):
        rings.wait(10)


def test_many_are_sent_while_their_answers_come(board: FakeBoard, rings: Rings) -> None:
    def reply(_kind: int, body: bytes) -> Answer:
        number = int.from_bytes(body[-4:], "little")
        return (-errno.EAGAIN if number % 100 == 7 else 2000, b"")

    board.reply = reply
    data = b"z" * 1996
    results = rings.send_many(
        (9, (3, 80), [data, struct.pack("<I", number)], 0) for number in range(2000)
    )
    refused = [number for number, one in enumerate(results) if isinstance(one, BlockingIOError)]
    assert refused == list(range(7, 2000, 100))
    assert [one for one in results if not isinstance(one, OSError)] == [2000] * 1980


def test_what_no_board_would_read_is_not_sent(board: FakeBoard, rings: Rings) -> None:
    results = rings.send_many([(9, (3, 80), [b"x"], 0), (9, (3, 80), [bytes(2 << 20)], 0)])
    assert results[0] == 0
    assert isinstance(results[1], OSError)
    assert results[1].errno == errno.EMSGSIZE
    assert [kind for kind, _ in board.requests] == [1, 4]


def test_messages_come_until_the_ring_goes(board: FakeBoard, rings: Rings) -> None:
    batches = [slots((3, 9, 0, b"one"), (3, 9, 0, b"two")), b"", slots((4, 1, 0, b"three")), b""]
    board.reply = lambda _kind, _body: (0, batches.pop(0))
    messages = rings.messages(80)
    assert [next(messages).data, next(messages).data] == [b"one", b"two"]
    board.tell(event(2, owner=3), event(1))
    assert next(messages).data == b"three"
    board.tell(event(3))
    assert list(messages) == []
    # What was not about the ring was left for others.
    assert rings.events() == [Event("space", 3, 80, ANY)]


def test_a_ring_without_messages_ends_the_wait_in_time(rings: Rings) -> None:
    with pytest.raises(TimeoutError):
        next(rings.messages(80, timeout_s=0.0))


def test_a_send_waits_for_room(board: FakeBoard, rings: Rings) -> None:
    answers = [-errno.EAGAIN, -errno.EAGAIN, 1]

    def reply(_kind: int, _body: bytes) -> Answer:
        if answers[0] < 0:
            board.tell(event(2, owner=3), event(1))
        return (answers.pop(0), b"")

    board.reply = reply
    assert rings.send(9, (3, 80), b"x") == 1
    assert rings.events() == [Event("arrival", 7, 80, ANY)]


def test_a_question_and_its_answer(board: FakeBoard, rings: Rings) -> None:
    board.reply = lambda _kind, _body: (
        0,
        struct.pack("<IHHHHII", 80, 3, 0, 1 | 2 | 8, 0, 100, 4064),
    )
    space = rings.query((3, 80), 100)
    assert space == (Address(3, 80), Flags.EXISTS | Flags.SHARED | Flags.SUFFICIENT, 4064)
    assert board.requests[-1] == (5, struct.pack("<IIHHHHII", 1, 80, 3, 0, 0, 0, 100, 0))


def test_the_descriptor_is_readable_while_events_wait(board: FakeBoard, rings: Rings) -> None:
    def readable(timeout_s: float) -> bool:
        return bool(select.select([rings], [], [], timeout_s)[0])

    assert not readable(0)
    board.tell(event(1), event(1))
    assert readable(10)
    # The event leaves the socket with an answer, and still shows.
    rings.unregister(81)
    assert readable(0)
    assert rings.events() == [Event("arrival", 7, 80, ANY)]
    assert not readable(0)


def test_a_board_that_goes_ends_what_waits(board: FakeBoard, rings: Rings) -> None:
    board.stream.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionError):
        rings.wait(10)
    with pytest.raises(ConnectionError):
        rings.register(80)


def test_a_refused_hello_leaves_no_connection() -> None:
    client, stream = socket.socketpair()
    with stream:
        stream.sendall(struct.pack("<IBIi", 9, 0x80, 1, -errno.EPROTONOSUPPORT))
        with pytest.raises(OSError, match="rotocol"):
            Rings(client)
        assert client.fileno() == -1
