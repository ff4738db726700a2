# SPDX-License-Identifier: Apache-2.0
"""Inherited descriptors of every kind: never blocking, never changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.errors import HostError, OutOfSpace
from innkeeper.system.pump import Channel, InputStream, OutputStream, Poller

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.fixture(params=["private", "shared"])
def output(
    request: pytest.FixtureRequest, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OutputStream]:
    """The pipe's writer; "shared" is where it cannot be opened anew."""
    if request.param == "shared":

        def refuse(*_: object) -> int:
            raise PermissionError

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            made = OutputStream(pipe[1], name="stdout")
    else:
        made = OutputStream(pipe[1], name="stdout")
    yield made
    made.close()


def settle(output: OutputStream) -> None:
    """Write until the pipe is full or the queue empty."""
    poller = Poller()
    output.flush(polled=False)
    while output.pending and poller.wait(read=[], write=[output.fd], timeout_s=0):
        output.flush(polled=True)


def test_a_full_pipe_does_not_block(output: OutputStream, pipe: Pipe) -> None:
    data = os.urandom(300_000)
    for start in range(0, len(data), 1000):
        output.put(data[start : start + 1000])
    found = b""
    while output.pending:
        settle(output)
        found += os.read(pipe[0], 1 << 20)
    assert found + (os.read(pipe[0], 1 << 20) if len(found) < len(data) else b"") == data
    assert os.get_blocking(pipe[1])


def test_a_reader_that_left(output: OutputStream, pipe: Pipe) -> None:
    os.close(pipe[0])
    output.put(b"x")
    with pytest.raises(BrokenPipeError):
        settle_all(output)
    output.discard()
    output.put(b"y")
    assert output.pending == 0


def settle_all(output: OutputStream) -> None:
    while output.pending:
        settle(output)


def test_a_socket_as_output() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        output = OutputStream(ours.fileno(), name="stdout")
        output.put(bytes(1 << 20))
        output.flush(polled=False)
        assert 0 < output.pending < 1 << 20
        output.close()
        assert os.get_blocking(ours.fileno())


def test_a_full_disk() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        output = OutputStream(fd, name="stdout")
        output.put(b"x")
        with pytest.raises(OutOfSpace, match="cannot write stdout: No space left"):
            output.flush(polled=False)
    finally:
        os.close(fd)


def test_a_closed_output_swallows() -> None:
    output = OutputStream(-1, name="stdout")
    output.put(b"x")
    assert output.pending == 0


def test_inputs(pipe: Pipe, tmp_path: Path) -> None:
    assert InputStream(-1).read() == b""
    os.write(pipe[1], b"abc")
    stream = InputStream(pipe[0])
    assert (stream.fd, stream.read()) == (pipe[0], b"abc")
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        stream = InputStream(file.fileno())
        assert (stream.fd, stream.read(), stream.read()) == (-1, b"content", b"")


def test_a_socket_as_input() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = InputStream(ours.fileno())
        assert stream.read() is None
        theirs.sendall(b"x")
        assert stream.read() == b"x"
        stream.close()
        assert os.get_blocking(ours.fileno())


def test_a_folder_as_input() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(HostError, match="cannot read stdin: Is a directory"):
            InputStream(fd).read()
    finally:
        os.close(fd)


def test_urgent_frames_pass_others() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        for frames in (b"first", b"second"):
            channel.queue(frames)
        channel.queue(b"urgent", urgent=True)
        channel.flush()
        assert (channel.pending, theirs.recv(100)) == (0, b"firsturgentsecond")
        assert channel.receive() is None


def test_closed_standard_descriptors_are_occupied() -> None:
    script = (
        "import os; os.close(0); os.close(1)\n"
        "from innkeeper.system.descriptors import occupy_standard_descriptors as occupy\n"
        "occupy(); assert os.open('/', os.O_RDONLY) > 2; assert os.read(0, 1) == b''"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
