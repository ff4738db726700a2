# SPDX-License-Identifier: Apache-2.0
"""One shell session as a state machine without I/O: `proto/vsh.proto` in and out.

:class:`SessionProtocol` makes the frames that go to the guest and turns bytes
from the guest into events. Whatever the guest sends becomes an event or a
`ProtocolError`, and its texts are bounded and free of control characters.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from google.protobuf.message import DecodeError

from innkeeper.agent.frames import (
    DATA_LIMIT,
    FrameDecoder,
    encode_frame,
)
from innkeeper.agent.pb import vsh_pb2
from innkeeper.agent.setup import WindowSize, start_request
from innkeeper.agent.text import clean_text
from innkeeper.errors import (
    CommandNotExecutable,
    CommandNotFound,
    GuestError,
    InnError,
    ProtocolError,
)
from innkeeper.model.machine import Command

STDOUT = 2
STDERR = 3
FailedStep: TypeAlias = Literal["user", "workdir", "command", "other"]

PID_MAXIMUM = 1 << 22  # PID_MAX_LIMIT of Linux
SESSION_ID = re.compile(r"[0-9a-zA-Z_-]{0,40}")


@dataclass(frozen=True)
class Started:
    """The command runs.

    :ivar session_id: by which it is found again; "" when it ends with its connection.
    :ivar tty: the agent says that it has a terminal; kept sessions alone do.
    :ivar dropped_bytes: of the earlier output of a kept session, what nobody saw.
    """

    pid: int
    session_id: str = ""
    tty: bool = False
    dropped_bytes: int = 0


@dataclass(frozen=True)
class Output:
    """Bytes that the command wrote."""

    stream: int
    data: bytes


@dataclass(frozen=True)
class Eof:
    """The command's stream has ended."""

    stream: int


@dataclass(frozen=True)
class Exited:
    """The command ended; nothing follows."""

    code: int


@dataclass(frozen=True)
class Failed:
    """The command was not started, or the agent gave up on it; nothing follows.

    :ivar error_number: errno of the failed step, or 0.
    :ivar step: what failed; None where the agent does not say.
    """

    description: str
    error_number: int = 0
    step: FailedStep | None = None


# A step that a later agent may add is none of those that have errors of their own.
_STEPS: dict[int, FailedStep] = {
    vsh_pb2.FAILED_STEP_USER: "user",
    vsh_pb2.FAILED_STEP_WORKDIR: "workdir",
    vsh_pb2.FAILED_STEP_COMMAND: "command",
}

Event: TypeAlias = Started | Output | Eof | Exited | Failed


@lru_cache(maxsize=64)
def _data_header(length: int) -> bytes:
    """What comes before `length` bytes of stdin in a frame: `data` is the last field."""
    message = vsh_pb2.GuestMessage(
        data_message=vsh_pb2.DataMessage(stream=vsh_pb2.STDIN_STREAM, data=bytes(length))
    )
    frame = encode_frame(message.SerializeToString())
    return frame[: len(frame) - length]


def stdin_frames(data: bytes) -> bytes:
    """The bytes as stdin messages of at most `DATA_LIMIT` bytes each.

    No bytes make no message: an empty one would mean end of file.
    """
    parts: list[bytes] = []
    for start in range(0, len(data), DATA_LIMIT):
        chunk = data[start : start + DATA_LIMIT]
        parts += (_data_header(len(chunk)), chunk)
    return b"".join(parts)


def read_answer(answer: vsh_pb2.SetupConnectionResponse) -> Started | Failed:
    """What the agent answers to the first message.

    :raise ProtocolError: it makes no sense.
    """
    if answer.status == vsh_pb2.FAILED:
        number = answer.error_number if 0 < answer.error_number < 4096 else 0
        step = _STEPS.get(answer.failed_step, "other") if answer.failed_step else None
        return Failed(clean_text(answer.description), number, step)
    if answer.status != vsh_pb2.READY:
        raise nonsense(f"status {answer.status} in place of an answer to the setup")
    if not 0 <= answer.pid <= PID_MAXIMUM:
        raise nonsense(f"the process id {answer.pid}")
    if not SESSION_ID.fullmatch(answer.session_id):
        raise nonsense("a session id that is none")
    return Started(answer.pid, answer.session_id, answer.tty, answer.dropped_bytes)


class SessionProtocol:
    """Both directions of one session, from the host's side.

    :param setup: the first frame, where it is another than to start `command`.
    :ivar started: the guest has said that the command runs.
    :ivar ended: an `Exited` or `Failed` came; later bytes are ignored.
    """

    def __init__(
        self, command: Command, *, window: WindowSize | None = None, setup: bytes | None = None
    ) -> None:
        self._setup = start_request(command, window) if setup is None else setup
        self._decoder = FrameDecoder()
        self._eof_streams: set[int] = set()
        self.started = False
        self.ended = False

    def setup(self) -> bytes:
        """The first frame of the connection."""
        return self._setup

    def stdin(self, data: bytes) -> bytes:
        """Frames for bytes of stdin."""
        return stdin_frames(data)

    def stdin_eof(self) -> bytes:
        """The frame for the end of stdin."""
        return _data_header(0)

    def resize(self, window: WindowSize) -> bytes:
        """The frame for a new window size."""
        message = vsh_pb2.WindowResizeMessage(rows=window.rows, cols=window.cols)
        return encode_frame(vsh_pb2.GuestMessage(resize_message=message).SerializeToString())

    def signal(self, number: int) -> bytes:
        """The frame for a signal, by its number of Linux; upstream peers know four of them."""
        message = vsh_pb2.GuestMessage(signal=number)  # type: ignore[arg-type]  # an open enum
        return encode_frame(message.SerializeToString())

    def receive(self, data: bytes) -> Iterator[Event]:
        """The events in bytes from the guest; the iterator must be used up.

        :raise ProtocolError: the guest broke the protocol.
        """
        if self.ended:
            return
        for payload in self._decoder.feed(data):
            event = self._running(payload) if self.started else self._answer(payload)
            if event is not None:
                yield event
            if isinstance(event, Exited | Failed):
                return

    def _answer(self, payload: bytes) -> Event:
        try:
            answer = vsh_pb2.SetupConnectionResponse.FromString(payload)
        except DecodeError as exc:
            raise nonsense("an answer to the setup that cannot be read") from exc
        event = read_answer(answer)
        self.ended = isinstance(event, Failed)
        self.started = not self.ended
        return event

    def _running(self, payload: bytes) -> Event | None:
        try:
            message = vsh_pb2.HostMessage.FromString(payload)
        except DecodeError as exc:
            raise nonsense("a message that cannot be read") from exc
        kind = message.WhichOneof("msg")
        if kind == "data_message":
            return self._data(message.data_message)
        if kind == "status_message":
            return self._status(message.status_message)
        raise nonsense("a message of no known kind")

    def _data(self, message: vsh_pb2.DataMessage) -> Event | None:
        stream, data = message.stream, message.data
        if stream not in (STDOUT, STDERR):
            raise nonsense(f"data for stream {stream}")
        if stream in self._eof_streams:
            if data:
                raise nonsense(f"data for stream {stream} after its end")
            return None
        if data:
            return Output(stream, data)
        self._eof_streams.add(stream)
        return Eof(stream)

    def _status(self, message: vsh_pb2.ConnectionStatusMessage) -> Event | None:
        if message.status == vsh_pb2.READY:
            return None  # says nothing new
        if message.status == vsh_pb2.EXITED:
            if not 0 <= message.code <= 255:
                raise nonsense(f"the exit code {message.code}")
            self.ended = True
            return Exited(message.code)
        if message.status == vsh_pb2.FAILED:
            self.ended = True
            return Failed(clean_text(message.description))
        raise nonsense(f"the status {message.status}")


def nonsense(what: str) -> ProtocolError:
    """The error for an agent that breaks the protocol."""
    return ProtocolError(f"the guest's agent sent {what}", stage="session")


# execve(2) on a file that is there but cannot be run.
_NOT_EXECUTABLE = (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM, errno.ELIBBAD)


def failure_to_error(failed: Failed, command: Command, *, started: bool) -> InnError:
    """The error for a `Failed` event."""
    description = failed.description or "the agent gave no reason"
    if started:
        return GuestError(f"the guest's agent gave the command up: {description}", stage="session")
    program = command.argv[0] if command.argv else "the login shell"
    if failed.step == "command" or (
        failed.step is None and _is_about_program(failed.description, command)
    ):
        if failed.error_number in (errno.ENOENT, errno.ENOTDIR):
            return CommandNotFound(
                f"the guest cannot find the command {program!r}",
                stage="session",
                evidence=(description,),
            )
        if failed.error_number in _NOT_EXECUTABLE:
            return CommandNotExecutable(
                f"the guest cannot execute {program!r}", stage="session", evidence=(description,)
            )
    return GuestError(f"the guest could not start {program!r}: {description}", stage="session")


def _is_about_program(description: str, command: Command) -> bool:
    """True when the step that failed is the execution, of an agent that does not name it.

    Other steps fail with the same errnos: a missing folder is ENOENT too. The
    agent starts its description with the name of what failed
    (crates/agent/src/vsh/launch.rs): the folder, or the program or its path.
    """
    if command.workdir and description.startswith(f"{clean_text(command.workdir)}: "):
        return False
    if description.startswith("executing the program"):
        return True
    if not command.argv:
        return description.startswith("/")
    program = clean_text(command.argv[0])
    head, found, _ = description.partition(f"{program}: ")
    # A command without a slash was found, or not, in a folder of PATH.
    return bool(found) and (not head or ("/" not in program and head.endswith("/")))
