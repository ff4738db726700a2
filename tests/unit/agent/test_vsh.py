# SPDX-License-Identifier: Apache-2.0
"""The session's protocol, by value and with hostile bytes."""

from __future__ import annotations

import contextlib
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.agent.frames import FrameDecoder, encode_frame
from innkeeper.agent.pb import vsh_pb2
from innkeeper.agent.setup import WindowSize
from innkeeper.agent.vsh import (
    STDERR,
    STDOUT,
    Eof,
    Event,
    Exited,
    Failed,
    Output,
    SessionProtocol,
    Started,
    failure_to_error,
)
from innkeeper.errors import (
    CommandNotExecutable,
    CommandNotFound,
    GuestError,
    InnError,
    ProtocolError,
    UsageError,
)
from innkeeper.model.machine import Command

READY = vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=7)


def payload(frame: bytes) -> bytes:
    (found,) = FrameDecoder(1 << 20).feed(frame)
    return found


def message(**fields: object) -> bytes:
    return encode_frame(vsh_pb2.HostMessage(**fields).SerializeToString())  # type: ignore[arg-type]


def data(stream: int, content: bytes) -> bytes:
    return message(data_message={"stream": stream, "data": content})


def status(status: int, code: int = 0, description: str = "") -> bytes:
    return message(status_message={"status": status, "code": code, "description": description})


def running() -> SessionProtocol:
    protocol = SessionProtocol(Command(argv=("true",)))
    assert list(protocol.receive(encode_frame(READY.SerializeToString()))) == [Started(7)]
    return protocol


def test_setup_with_pipes() -> None:
    command = Command(argv=("ls", "-l"), env={"A": "b"}, workdir="/x", user="me")
    request = vsh_pb2.SetupConnectionRequest.FromString(payload(SessionProtocol(command).setup()))
    assert request == vsh_pb2.SetupConnectionRequest(
        target="/vm_shell", argv=["ls", "-l"], env={"A": "b"}, cwd="/x", user="me", nopty=True
    )


def test_setup_with_a_terminal() -> None:
    protocol = SessionProtocol(Command(), window=WindowSize(30, 90))
    request = vsh_pb2.SetupConnectionRequest.FromString(payload(protocol.setup()))
    assert request == vsh_pb2.SetupConnectionRequest(
        target="/vm_shell", window_rows=30, window_cols=90
    )


@pytest.mark.parametrize(
    "command",
    [
        Command(argv=("a\0b",)),
        Command(env={"A": "\0"}),
        Command(workdir="\0"),
        Command(argv=("\udcff",)),
        Command(env={"A": "\udcff"}),
        Command(workdir="\udcff"),
        Command(argv=("x" * (1 << 20),)),
    ],
)
def test_setups_that_cannot_be_sent(command: Command) -> None:
    with pytest.raises(UsageError):
        SessionProtocol(command)


@pytest.mark.parametrize("size", [1, 3999, 4000, 4001, 100_000])
def test_stdin_is_split(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    frames = list(FrameDecoder(4096).feed(running().stdin(content)))
    messages = [vsh_pb2.GuestMessage.FromString(frame).data_message for frame in frames]
    assert {message.stream for message in messages} == {vsh_pb2.STDIN_STREAM}
    assert b"".join(message.data for message in messages) == content
    assert len(messages) == -(-size // 4000)


def test_small_messages() -> None:
    protocol = running()
    assert protocol.stdin(b"") == b""
    end = vsh_pb2.GuestMessage.FromString(payload(protocol.stdin_eof()))
    assert (end.data_message.stream, end.data_message.data) == (vsh_pb2.STDIN_STREAM, b"")
    resize = vsh_pb2.GuestMessage.FromString(payload(protocol.resize(WindowSize(1, 2))))
    assert (resize.resize_message.rows, resize.resize_message.cols) == (1, 2)
    signal = vsh_pb2.GuestMessage.FromString(payload(protocol.signal(15)))
    assert signal.signal == vsh_pb2.SIGNAL_TERM


def test_a_whole_session() -> None:
    stream = (
        data(STDOUT, b"a")
        + status(vsh_pb2.READY)
        + data(STDERR, b"b")
        + data(STDERR, b"")
        + data(STDERR, b"")
        + data(STDOUT, b"")
        + status(vsh_pb2.EXITED, 137)
        + b"\xff\xff\xff\xff"
    )
    protocol = running()
    assert list(protocol.receive(stream)) == [
        Output(STDOUT, b"a"),
        Output(STDERR, b"b"),
        Eof(STDERR),
        Eof(STDOUT),
        Exited(137),
    ]
    assert protocol.ended


def test_failure_after_the_start() -> None:
    assert list(running().receive(status(vsh_pb2.FAILED, 0, "a\x1b[31m\nb"))) == [
        Failed("a\ufffd[31m\ufffdb")
    ]


@pytest.mark.parametrize(
    "frame",
    [
        data(1, b"x"),
        data(0, b"x"),
        data(99, b""),
        status(vsh_pb2.UNKNOWN),
        status(42),
        status(vsh_pb2.EXITED, -1),
        status(vsh_pb2.EXITED, 256),
        data(STDOUT, b"") + data(STDOUT, b"x"),
        encode_frame(b""),
        encode_frame(b"\xff"),
        encode_frame(b"\x12\x05\x12\x03\xff\xff\xff"),  # a description that is not UTF-8
        b"\xff\xff\xff\x7f",
    ],
)
def test_nonsense(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(running().receive(frame))


@pytest.mark.parametrize(
    "answer",
    [
        vsh_pb2.SetupConnectionResponse(),
        vsh_pb2.SetupConnectionResponse(status=vsh_pb2.EXITED),
        vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=-1),
        vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=1 << 30),
    ],
)
def test_nonsense_as_answer(answer: vsh_pb2.SetupConnectionResponse) -> None:
    protocol = SessionProtocol(Command())
    with pytest.raises(ProtocolError):
        list(protocol.receive(encode_frame(answer.SerializeToString())))


@given(st.lists(st.binary(max_size=100), max_size=10), st.booleans())
def test_hostile_frames(payloads: list[bytes], started: bool) -> None:
    protocol = running() if started else SessionProtocol(Command())
    events: list[Event] = []
    try:
        for content in payloads:
            events += protocol.receive(encode_frame(content))
    except ProtocolError:
        pass
    for event in events:
        if isinstance(event, Failed):
            assert event.description.isprintable()
            assert len(event.description) <= 1001


@given(st.binary(max_size=500))
def test_hostile_bytes(content: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        list(running().receive(content))


@pytest.mark.parametrize(
    ("description", "number", "command", "kind"),
    [
        ("x: not found in PATH", errno.ENOENT, Command(argv=("x",)), CommandNotFound),
        ("/bin/x: No such file", errno.ENOENT, Command(argv=("/bin/x",)), CommandNotFound),
        ("/bin/x: its interpreter is missing", errno.ENOENT, Command(argv=("x",)), CommandNotFound),
        ("/bin/sh: not there", errno.ENOENT, Command(), CommandNotFound),
        ("x: Permission denied", errno.EACCES, Command(argv=("x",)), CommandNotExecutable),
        ("x: Exec format error", errno.ENOEXEC, Command(argv=("x",)), CommandNotExecutable),
        ("/d: No such file", errno.ENOENT, Command(argv=("x",), workdir="/d"), GuestError),
        ("/d: No such file", errno.ENOENT, Command(workdir="/d"), GuestError),
        ("becoming the user: EPERM", errno.EPERM, Command(argv=("x",)), GuestError),
        ('no user "u" in /etc/passwd', errno.EINVAL, Command(argv=("x",)), GuestError),
        ("x: Cannot allocate memory", errno.ENOMEM, Command(argv=("x",)), GuestError),
        ("", 0, Command(argv=("x",)), GuestError),
    ],
)
def test_failed_starts(
    description: str, number: int, command: Command, kind: type[InnError]
) -> None:
    assert type(failure_to_error(Failed(description, number), command, started=False)) is kind


def test_the_named_step_goes_before_the_description() -> None:
    command = Command(argv=("x",), workdir="/x")
    for step, kind in (("command", CommandNotFound), ("workdir", GuestError), ("user", GuestError)):
        failed = Failed("x: gone", errno.ENOENT, step)  # type: ignore[arg-type]
        assert type(failure_to_error(failed, command, started=False)) is kind


@pytest.mark.parametrize(
    ("number", "step"), [(0, None), (1, "user"), (3, "command"), (77, "other")]
)
def test_steps_on_the_wire(number: int, step: str | None) -> None:
    answer = vsh_pb2.SetupConnectionResponse(
        status=vsh_pb2.FAILED,
        description="d",
        error_number=2,
        failed_step=number,  # type: ignore[arg-type]
    )
    frame = encode_frame(answer.SerializeToString())
    (failed,) = SessionProtocol(Command(argv=("x",))).receive(frame)
    assert failed == Failed("d", 2, step)  # type: ignore[arg-type]


def test_failed_when_started() -> None:
    error = failure_to_error(Failed("x: gone", errno.ENOENT), Command(argv=("x",)), started=True)
    assert type(error) is GuestError
