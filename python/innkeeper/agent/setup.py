# SPDX-License-Identifier: Apache-2.0
"""The first message of a connection to the shell port: what the agent is to do.

Fields of our own tell an agent to keep a session. One that does not know them
ignores them: its answer names no session.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import EncodeError

from innkeeper.agent.frames import SETUP_LIMIT, encode_frame
from innkeeper.agent.pb import vsh_pb2
from innkeeper.errors import UsageError
from innkeeper.model.machine import Command

# The guest itself, in upstream's constants.
VM_SHELL = "/vm_shell"


@dataclass(frozen=True)
class WindowSize:
    """Size of a terminal in characters."""

    rows: int
    cols: int


@dataclass(frozen=True)
class Keep:
    """A session that outlives its connection.

    :ivar detached: nobody is attached at first.
    :ivar stdin: somebody may write to it; else its stdin is at its end.
    """

    detached: bool = False
    stdin: bool = True


def start_request(command: Command, window: WindowSize | None, keep: Keep | None = None) -> bytes:
    """The frame that starts a command.

    :param window: the size of its terminal; None gives it three pipes.
    :param keep: None ends it with its connection.
    :raise UsageError: the protocol cannot say it.
    """
    values = (*command.argv, *command.env, *command.env.values())
    if any("\0" in value for value in (*values, command.user or "", command.workdir or "")):
        raise UsageError("a zero byte in the command, its environment, folder or user")
    request = vsh_pb2.SetupConnectionRequest(target=VM_SHELL, nopty=window is None)
    if keep is not None:
        request.detachable = True
        request.detached = keep.detached
        request.no_stdin = not keep.stdin
    try:
        request.argv.extend(command.argv)
        for key, value in command.env.items():
            request.env[key] = value
        request.cwd = command.workdir or ""
        request.user = command.user or ""
        request.cwd_pid = command.workdir_of or 0
        if window is not None:
            request.window_rows = window.rows
            request.window_cols = window.cols
        payload = request.SerializeToString()
    except (UnicodeError, ValueError, EncodeError) as exc:
        raise UsageError(
            "the command or its environment is not UTF-8, which the agent's protocol demands",
            fix="pass such bytes through stdin",
        ) from exc
    if len(payload) > SETUP_LIMIT:
        raise UsageError(
            f"the command and its environment have {len(payload)} bytes; {SETUP_LIMIT} is the limit",
            fix="pass long data through stdin",
        )
    return encode_frame(payload, max_bytes=SETUP_LIMIT)


def attach_request(session_id: str, window: WindowSize | None) -> bytes:
    """The frame that attaches to a kept session.

    :param session_id: its id, or the only one that begins so.
    :param window: the size of our terminal, if we have one.
    :raise UsageError: it is no id.
    """
    request = vsh_pb2.SetupConnectionRequest(target=VM_SHELL)
    if not session_id or len(session_id) > 40 or not session_id.isascii():
        raise UsageError(
            f"{session_id!r} is not the id of a session", fix="`inn sessions` lists them"
        )
    request.attach = session_id
    if window is not None:
        request.window_rows = window.rows
        request.window_cols = window.cols
    return encode_frame(request.SerializeToString())


def list_request() -> bytes:
    """The frame that asks for the kept sessions."""
    request = vsh_pb2.SetupConnectionRequest(target=VM_SHELL, list_sessions=True)
    # An agent that knows no lists shall start nothing that matters.
    request.argv.append("true")
    request.nopty = True
    return encode_frame(request.SerializeToString())
