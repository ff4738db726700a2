# SPDX-License-Identifier: Apache-2.0
"""A session channel before its command runs, against a guest that takes its time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from innkeeper.agent.frames import FrameDecoder, encode_frame
from innkeeper.agent.pb import vsh_pb2
from innkeeper.ssh.session import GuestSession


class Channel:
    """The client's side, as far as a session without output needs it."""

    def __init__(self) -> None:
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def get_environment_bytes(self) -> dict[bytes, bytes]:
        return {}

    def is_closing(self) -> bool:
        return False

    def exit(self, code: int) -> None:
        self.code.set_result(code)


def test_a_window_that_changes_while_the_command_starts(tmp_path: Path) -> None:
    """The guest is told the later size, once there is somebody to tell."""

    async def scenario() -> None:
        session = GuestSession(tmp_path / "vsock", "")
        messages: list[vsh_pb2.GuestMessage] = []

        async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            decoder = FrameDecoder()

            async def frame() -> bytes:
                while True:
                    for payload in decoder.feed(await reader.read(4096)):
                        return payload

            await reader.readline()
            writer.write(b"OK 1\n")
            setup = vsh_pb2.SetupConnectionRequest.FromString(await frame())
            assert (setup.window_rows, setup.window_cols) == (24, 80)
            session.terminal_size_changed(100, 40, 0, 0)
            ready = vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=1)
            writer.write(encode_frame(ready.SerializeToString()))
            messages.append(vsh_pb2.GuestMessage.FromString(await frame()))
            ended = vsh_pb2.ConnectionStatusMessage(status=vsh_pb2.EXITED, code=3)
            message = vsh_pb2.HostMessage(status_message=ended)
            writer.write(encode_frame(message.SerializeToString()))
            await writer.drain()
            writer.close()

        async with asyncio.timeout(20), await asyncio.start_unix_server(guest, tmp_path / "vsock"):
            channel = Channel()
            session.connection_made(cast(Any, channel))
            session.pty_requested("vt100", (80, 24, 0, 0), {})
            session.session_started()
            assert await channel.code == 3
        size = messages[0].resize_message
        assert (size.rows, size.cols) == (40, 100)

    asyncio.run(scenario())
