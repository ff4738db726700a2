# SPDX-License-Identifier: Apache-2.0
"""Who sits at a console: bounded memory, a replay that asks nothing, and keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from innkeeper.errors import UsageError
from innkeeper.keeper.attach import key_name, parse_escape
from innkeeper.keeper.audience import PENDING_BYTES, REPLAY_BYTES, Attached, Audience
from innkeeper.keeper.console import Console
from innkeeper.system.sockets import StreamSocket, stream_pair

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def with_seat(
    work: Callable[[Audience, Streams], Awaitable[None]], *, read_only: bool = False
) -> None:
    """An audience with one attached over a socket pair."""

    async def run() -> None:
        audience = Audience()
        audience.hear(b"past\r\n")
        ours, theirs = stream_pair()
        served = await asyncio.open_unix_connection(sock=ours)
        seat = await asyncio.open_unix_connection(sock=theirs)

        async def serve() -> None:
            await audience.attend(*served, read_only=read_only)
            served[1].close()

        serving = asyncio.ensure_future(serve())
        try:
            await asyncio.wait_for(work(audience, seat), 10)
        finally:
            seat[1].close()
            await asyncio.wait_for(serving, 10)

    asyncio.run(run())


def test_a_newcomer_sees_the_past_and_all_that_follows() -> None:
    async def work(audience: Audience, seat: Streams) -> None:
        assert await seat[0].readline() == b"past\r\n"
        audience.hear(b"more\x00\xff\n")
        assert await seat[0].readline() == b"more\x00\xff\n"
        audience.end()
        assert await seat[0].read() == b""

    with_seat(work)


def test_a_slow_reader_loses_bytes_and_is_told_how_many() -> None:
    async def run() -> None:
        one = Attached(b"")
        one.put(b"a" * PENDING_BYTES)
        one.put(b"b")
        one.put(b"c" * 9)
        assert await one.take() == b"a" * PENDING_BYTES + b"\r\n[inn: 10 bytes lost]\r\n"
        one.put(b"d")
        one.end()
        assert await one.take() == b"d"
        assert await one.take() == b""

    asyncio.run(run())


def test_the_past_is_bounded_begins_with_a_line_and_asks_nothing() -> None:
    audience = Audience()
    audience.hear(b"~ # \x1b[6nls\x1b[31m\x1b[>0c\x1bZ\x05\n")
    assert audience.replay() == b"~ # ls\x1b[31m\n"
    for number in range(REPLAY_BYTES):
        audience.hear(b"line %d\n" % number)
    past = audience.replay()
    assert len(past) <= REPLAY_BYTES
    assert past.startswith(b"line ")
    assert past.endswith(b"line %d\n" % (REPLAY_BYTES - 1))


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_typed_reaches_the_guest_unless_it_may_not(read_only: bool) -> None:
    async def work(audience: Audience, seat: Streams) -> None:
        guest, qemu = stream_pair()
        guest.settimeout(0)
        console = Console(qemu, None, audience)
        console.start()
        try:
            await seat[0].readline()
            seat[1].write(b"typed\x03")
            loop = asyncio.get_running_loop()
            reading = asyncio.ensure_future(loop.sock_recv(guest, 100))
            done, _ = await asyncio.wait({reading}, timeout=0.3 if read_only else 5)
            assert bool(done) is not read_only
            reading.cancel()
            if done:
                assert reading.result() == b"typed\x03"
        finally:
            console.close()
            guest.close()
            qemu.close()

    with_seat(work, read_only=read_only)


def test_a_guest_that_takes_nothing_does_not_hold_up_its_end() -> None:
    async def work(audience: Audience, seat: Streams) -> None:
        guest, qemu = stream_pair()
        console = Console(qemu, None, audience)
        console.start()
        full = asyncio.ensure_future(console.type(b"x" * (4 << 20)))
        await asyncio.sleep(0)
        assert not full.done()
        _close(console, guest, qemu)
        await asyncio.wait_for(full, 5)
        await console.type(b"for nobody")
        audience.hear(b"still shown\n")
        await seat[0].readline()
        assert await seat[0].readline() == b"still shown\n"

    with_seat(work)


def _close(console: Console, *socks: StreamSocket) -> None:
    console.close()
    for sock in socks:
        sock.close()


def test_keys() -> None:
    assert (parse_escape("^]"), parse_escape("^a"), parse_escape("~")) == (b"\x1d", b"\x01", b"~")
    assert parse_escape("none") == b""
    assert key_name(b"\x1d") == "Ctrl-]"
    for text in ("", "^^^", "^1", "long", "ü"):
        with pytest.raises(UsageError):
            parse_escape(text)
