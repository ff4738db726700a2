# SPDX-License-Identifier: Apache-2.0
"""What the agent says of kept sessions, and what it might say."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from innkeeper.agent.attach import KeptSession, list_kept, start_detached
from innkeeper.agent.frames import FrameDecoder, encode_frame
from innkeeper.agent.pb import vsh_pb2
from innkeeper.agent.setup import attach_request, list_request
from innkeeper.errors import CommandNotFound, GuestError, GuestLost, ProtocolError, UsageError
from innkeeper.keeper.sessions import choose_session
from innkeeper.model.machine import Command

GOOD: dict[str, Any] = {"id": "a1", "pid": 7, "user": "root", "argv": ["sh", "-c\n"]}


def listed(*sessions: dict[str, Any], **answer: Any) -> tuple[KeptSession, ...]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        message = vsh_pb2.SetupConnectionResponse(
            **{"status": vsh_pb2.READY, **answer},
            sessions=[vsh_pb2.KeptSession(**session) for session in sessions],
        )
        theirs.sendall(encode_frame(message.SerializeToString()))
        found = list_kept(ours)
        assert theirs.recv(65536) == list_request()
        return found


def test_a_list() -> None:
    ended = {**GOOD, "id": "b2", "ended": True, "code": 137, "age_ms": 1500}
    first, second = listed(GOOD, ended)
    assert (first.id, first.exit_code, first.attached) == ("a1", None, False)
    # Nothing of a guest reaches a terminal as it is.
    assert "\n" not in "".join(first.argv)
    assert (second.exit_code, second.age_s) == (137, 1.5)
    assert listed() == ()


@pytest.mark.parametrize(
    "change", [{"id": ""}, {"id": "\x1b[2J"}, {"id": "a" * 41}, {"pid": 0}, {"code": 256}]
)
def test_hostile_lists(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        listed({**GOOD, **change})


def test_lists_without_end() -> None:
    with pytest.raises(ProtocolError):
        listed(*[{"id": "a", "pid": 1}] * 1025)


def test_agents_that_keep_none() -> None:
    with pytest.raises(GuestError, match="keeps no sessions"):
        listed(pid=7)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.close()
        with pytest.raises(GuestLost):
            list_kept(ours)


def test_a_detached_command_that_cannot_start() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = vsh_pb2.SetupConnectionResponse(
            status=vsh_pb2.FAILED, error_number=2, failed_step=vsh_pb2.FAILED_STEP_COMMAND
        )
        theirs.sendall(encode_frame(answer.SerializeToString()))
        with pytest.raises(CommandNotFound):
            start_detached(ours, Command(argv=("x",)), tty=False, stdin=False)
        (payload,) = FrameDecoder().feed(theirs.recv(65536))
    request = vsh_pb2.SetupConnectionRequest.FromString(payload)
    assert (request.detachable, request.detached, request.no_stdin, request.nopty) == (True,) * 4


@pytest.mark.parametrize("session_id", ["", "x" * 41, "é"])
def test_ids_that_are_none(session_id: str) -> None:
    with pytest.raises(UsageError):
        attach_request(session_id, None)


def test_the_session_that_is_meant() -> None:
    def session(name: str, exit_code: int | None) -> KeptSession:
        return KeptSession(name, 1, "root", (), False, False, 0.0, exit_code)

    assert choose_session((session("a", 0),), "box") == "a"
    assert choose_session((session("a", 0), session("b", None)), "box") == "b"
    with pytest.raises(UsageError, match="a, b"):
        choose_session((session("a", 0), session("b", 1)), "box")
    with pytest.raises(UsageError, match="no session"):
        choose_session((), "box")
