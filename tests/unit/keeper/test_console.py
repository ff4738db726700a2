# SPDX-License-Identifier: Apache-2.0
"""The console against a guest that writes what it likes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from innkeeper.agent.text import escape_line
from innkeeper.keeper.console import Console, open_copy
from innkeeper.system.sockets import StreamSocket, stream_pair


def with_console(
    work: Callable[[Console, StreamSocket], Awaitable[None]], copy: str | None = None
) -> None:
    async def run() -> None:
        ours, theirs = stream_pair()
        console = Console(ours, open_copy(copy))
        console.start()
        try:
            await work(console, theirs)
        finally:
            console.close()
            ours.close()
            theirs.close()

    asyncio.run(run())


def test_a_panic_is_seen_as_soon_as_its_line_is_whole() -> None:
    async def work(console: Console, guest: StreamSocket) -> None:
        guest.sendall(b"booting\r\n[ 1.0] Kernel panic - not sync")
        guest.sendall(b"ing: VFS: Unable\x07 to mount root fs\r\n")
        text = await asyncio.wait_for(console.panic, 5)
        assert text == "Kernel panic - not syncing: VFS: Unable\\x07 to mount root fs"
        assert not console.silent

    with_console(work)


def test_the_evidence_of_a_panic_is_what_stands_around_it() -> None:
    async def work(console: Console, guest: StreamSocket) -> None:
        lines = [b"before %d" % n for n in range(30)]
        lines += [b"Kernel panic - not syncing: x"] + [b"stack %d" % n for n in range(30)]
        guest.sendall(b"\r\n".join(lines) + b"\r\n")
        guest.close()
        console.close()
        found = console.evidence()
        assert found[0] == "before 20"
        assert found[-2:] == ("Kernel panic - not syncing: x", "stack 0")

    with_console(work)


def test_the_end_is_remembered_in_bounded_memory(tmp_path: Path) -> None:
    copy = tmp_path / "console.log"

    async def work(console: Console, guest: StreamSocket) -> None:
        def flood() -> None:
            for number in range(20_000):
                guest.sendall(b"\x1b[31mline %d of a flood\x1b[0m\r\n" % number)

        await asyncio.to_thread(flood)
        guest.close()
        console.close()
        assert console.last_lines(2) == ("line 19998 of a flood", "line 19999 of a flood")
        assert len(console._tail) <= 64 * 1024

    with_console(work, str(copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.read_bytes().count(b"\n") == 20_000


def test_a_copy_that_cannot_be_written_does_not_end_the_guest() -> None:
    async def work(console: Console, guest: StreamSocket) -> None:
        guest.sendall(b"one\ntwo\n")
        guest.close()
        console.close()
        assert console.evidence() == ("one", "two")

    with_console(work, "/dev/full")


@given(st.binary(max_size=300))
def test_whatever_a_guest_writes_is_safe_to_print(data: bytes) -> None:
    line = escape_line(data.decode("utf-8", "replace").replace("\n", ""))
    assert not any(ord(char) < 32 and char != "\t" for char in line)
    assert os.fsencode("\x1b") not in line.encode()
