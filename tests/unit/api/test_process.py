# SPDX-License-Identifier: Apache-2.0
"""Processes and sessions of the API, over a socket pair with a scripted agent."""

from __future__ import annotations

import gc
import socket
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from innkeeper.agent.frames import SETUP_LIMIT, FrameDecoder, encode_frame
from innkeeper.agent.pb import vsh_pb2
from innkeeper.api.completed import CompletedExec, ExecError
from innkeeper.api.process import GuestProcess
from innkeeper.errors import CommandNotFound, GuestLost, InnError, TimedOut
from innkeeper.model.machine import Command

READY = vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=42).SerializeToString()
MISSING = vsh_pb2.SetupConnectionResponse(
    status=vsh_pb2.FAILED, description="/bin/nope: no such file", error_number=2
).SerializeToString()


class Agent:
    """The guest's end: reads the setup, answers, and does what its test says."""

    def __init__(self) -> None:
        self.client, self.server = socket.socketpair()
        self.server.settimeout(10)
        self._decoder = FrameDecoder(SETUP_LIMIT)
        self._waiting: list[bytes] = []
        self.killed: list[int] = []

    def answer(self, payload: bytes) -> None:
        self.server.sendall(encode_frame(payload))

    def output(self, stream: int, data: bytes) -> None:
        message = vsh_pb2.DataMessage(stream=stream, data=data)  # type: ignore[arg-type]
        self.answer(vsh_pb2.HostMessage(data_message=message).SerializeToString())

    def exited(self, code: int) -> None:
        status = vsh_pb2.ConnectionStatusMessage(status=vsh_pb2.EXITED, code=code)
        self.answer(vsh_pb2.HostMessage(status_message=status).SerializeToString())

    def message(self) -> vsh_pb2.GuestMessage | None:
        while not self._waiting:
            data = self.server.recv(65536)
            if not data:
                return None
            self._waiting += self._decoder.feed(data)
        return vsh_pb2.GuestMessage.FromString(self._waiting.pop(0))

    def process(self, *, answer: bytes = READY) -> GuestProcess:
        self.answer(answer)
        process = GuestProcess(
            self.client,
            Command(argv=("nope",)),
            tty=False,
            explain=lambda lost: InnError(f"explained: {lost.brief}"),
            kill=lambda _pid, number: self.killed.append(number),
        )
        self.server.settimeout(10)
        setup = self.server.recv(65536)
        assert b"nope" in setup
        return process


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    yield made
    made.client.close()
    made.server.close()


def test_streams_and_the_exit_code(agent: Agent) -> None:
    with agent.process() as process:
        assert process.pid == 42
        assert process.poll() is None
        process.stdin.write(b"question")
        process.stdin.close()
        first = agent.message()
        assert first is not None
        assert first.data_message.data == b"question"
        end = agent.message()
        assert end is not None
        assert end.data_message.data == b""
        agent.output(2, b"answer\n")
        agent.output(3, b"complaint")
        agent.exited(5)
        assert process.stdout.read() == b"answer\n"
        assert process.stderr.read() == b"complaint"
        assert process.wait(10) == 5
    assert process.returncode == process.poll() == 5


def test_the_exit_is_known_before_the_output_is_read(agent: Agent) -> None:
    with agent.process() as process:
        for _ in range(200):
            agent.output(2, b"x" * 4000)
        agent.exited(0)
        assert process.wait(10) == 0
        assert len(process.stdout.read()) == 800_000


def test_a_command_that_is_missing_raises_at_once(agent: Agent) -> None:
    with pytest.raises(CommandNotFound):
        agent.process(answer=MISSING)


def test_signals_travel_with_the_session_or_by_kill(agent: Agent) -> None:
    with agent.process() as process:
        process.terminate()
        message = agent.message()
        assert message is not None
        assert message.signal == vsh_pb2.SIGNAL_TERM
        process.kill()
        assert agent.killed == [9]
        agent.exited(143)
        assert process.wait(10) == 143
        process.terminate()  # one that has ended is fine


def test_a_wait_has_its_limit_and_a_close_hangs_up(agent: Agent) -> None:
    process = agent.process()
    with pytest.raises(TimedOut):
        process.wait(0.01)
    process.close()
    assert agent.message() is None
    assert process.returncode == 137
    process.close()


def test_a_lost_guest_is_explained(agent: Agent) -> None:
    process = agent.process()
    agent.server.close()
    with pytest.raises(InnError, match="explained: the connection"):
        process.wait(10)
    assert process.returncode is None
    process.close()


def test_an_exception_in_the_block_ends_the_command(agent: Agent) -> None:
    with pytest.raises(ZeroDivisionError), agent.process():
        raise ZeroDivisionError
    assert agent.message() is None


def test_communicate_does_both_sides(agent: Agent) -> None:
    def guest() -> None:
        while (message := agent.message()) is not None and message.data_message.data:
            agent.output(2, message.data_message.data)
        agent.exited(0)

    with agent.process() as process:
        other = threading.Thread(target=guest)
        other.start()
        data = bytes(range(256)) * 4000
        assert process.communicate(data, timeout_s=20) == (data, b"")
        other.join()


def test_a_dropped_process_warns_and_is_hung_up(
    agent: Agent, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        process = agent.process()
        del process
        gc.collect()
    assert any("was dropped" in str(item.message) for item in caught)
    assert agent.message() is None
    eventually(lambda: not any(t.name.startswith("innkeeper") for t in threading.enumerate()))


def test_a_failure_carries_what_the_command_said() -> None:
    done = CompletedExec(("ls", "/x"), 2, b"out", b"one\ntwo \x1b[0m\n")
    with pytest.raises(ExecError) as raised:
        done.check_returncode()
    error = raised.value
    assert (error.returncode, error.exit_code, error.argv) == (2, 2, ("ls", "/x"))
    assert (error.stdout, error.evidence) == (b"out", ("one", "two ?[0m"))
    assert "two" in str(error)
    assert isinstance(error, InnError)
    assert not isinstance(error, GuestLost)
