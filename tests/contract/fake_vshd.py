# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the guest's agent: real processes behind the protocols, on this host.

`python fake_vshd.py serve --unix-dir DIR` serves sessions on DIR/9001.sock and
announces itself on DIR/7777.sock, as `inn-agent` does with the same arguments.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

from innkeeper.agent.frames import MESSAGE_LIMIT, SETUP_LIMIT, FrameDecoder, encode_frame
from innkeeper.agent.pb import announce_pb2, vsh_pb2

DATA_LIMIT = 4000
QUEUE_LIMIT = 128 << 10


def main() -> None:
    folder = Path(sys.argv[3])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "9001.sock"))
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the sessions
    announcement = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    announcement.connect(str(folder / "7777.sock"))
    hello = announce_pb2.Hello(agent_version="fake", kernel_release=os.uname().release)
    message = announce_pb2.AgentMessage(hello=hello)
    announcement.sendall(encode_frame(message.SerializeToString()))
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            announcement.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                serve(connection)
            finally:
                os._exit(0)
        connection.close()


def serve(connection: socket.socket) -> None:
    decoder = FrameDecoder(SETUP_LIMIT)
    payloads: list[bytes] = []
    while not payloads:
        data = connection.recv(65536)
        if not data:
            return
        payloads = list(decoder.feed(data))
    request = vsh_pb2.SetupConnectionRequest.FromString(payloads[0])
    try:
        job = Job(request)
    except OSError as exc:
        answer = vsh_pb2.SetupConnectionResponse(
            status=vsh_pb2.FAILED,
            description=f"{describe(exc, request)}: {exc.strerror}",
            error_number=exc.errno or 0,
            failed_step=(
                vsh_pb2.FAILED_STEP_WORKDIR
                if exc.filename == request.cwd
                else vsh_pb2.FAILED_STEP_COMMAND
            ),
        )
        connection.sendall(encode_frame(answer.SerializeToString()))
        return
    Conversation(connection, decoder, job).run(payloads[1:])


def describe(exc: OSError, request: vsh_pb2.SetupConnectionRequest) -> str:
    return request.cwd if exc.filename == request.cwd else request.argv[0]


class Job:
    """A process with pipes or a terminal. `inputs` and `outputs` are the agent's ends."""

    def __init__(self, request: vsh_pb2.SetupConnectionRequest) -> None:
        env = {"PATH": os.defpath, "HOME": "/", **request.env}
        self.master = -1
        if request.nopty:
            self.process = start(request, env, [subprocess.PIPE] * 3)
            pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
            self.input, stdout, stderr = (pipe.fileno() for pipe in pipes if pipe)
            self.outputs = {stdout: vsh_pb2.STDOUT_STREAM, stderr: vsh_pb2.STDERR_STREAM}
        else:
            self.master, terminal = os.openpty()
            self.resize(request.window_rows, request.window_cols)
            self.process = start(request, env, [terminal] * 3)
            os.close(terminal)
            self.input = os.dup(self.master)
            self.outputs = {self.master: vsh_pb2.STDOUT_STREAM}
        os.set_blocking(self.input, False)

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))


def start(
    request: vsh_pb2.SetupConnectionRequest, env: dict[str, str], stdio: list[int]
) -> subprocess.Popen[bytes]:
    def own_terminal() -> None:
        if not request.nopty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return subprocess.Popen(
        list(request.argv),
        env=env,
        cwd=request.cwd or None,
        start_new_session=True,
        preexec_fn=own_terminal,  # noqa: PLW1509 - no threads here
        stdin=stdio[0],
        stdout=stdio[1],
        stderr=stdio[2],
    )


class Conversation:
    """Moves messages and bytes until the process ends or the peer is gone."""

    def __init__(self, connection: socket.socket, decoder: FrameDecoder, job: Job) -> None:
        self.connection = connection
        self.decoder = decoder
        self.job = job
        self.queue = b""
        self.closing = False

    def run(self, payloads: list[bytes]) -> None:
        ready = vsh_pb2.SetupConnectionResponse(status=vsh_pb2.READY, pid=self.job.process.pid)
        self.connection.sendall(encode_frame(ready.SerializeToString()))
        pidfd = os.pidfd_open(self.job.process.pid)
        try:
            for payload in payloads:
                self.obey(payload)
            self.pump(pidfd)
            # What the process itself wrote is in the kernel by now.
            for fd in list(self.job.outputs):
                while fd in self.job.outputs and select.select([fd], [], [], 0)[0]:
                    self.output(fd)
            code = self.job.process.wait()
            status = vsh_pb2.ConnectionStatusMessage(
                status=vsh_pb2.EXITED, code=code if code >= 0 else 128 - code
            )
            self.send(vsh_pb2.HostMessage(status_message=status))
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(10)
            while self.connection.recv(65536):
                pass
        except (ConnectionError, EOFError):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.job.process.pid, signal.SIGKILL)
            self.job.process.wait()

    def pump(self, pidfd: int) -> None:
        while True:
            readers = [pidfd, *self.job.outputs]
            if len(self.queue) < QUEUE_LIMIT:
                readers.append(self.connection.fileno())
            writers = [self.job.input] if self.queue and self.job.input >= 0 else []
            readable, writable, _ = select.select(readers, writers, [])
            for fd in readable:
                if fd in self.job.outputs:
                    self.output(fd)
            if writable:
                self.feed()
            if self.connection.fileno() in readable:
                data = self.connection.recv(65536)
                if not data:
                    raise EOFError
                for payload in self.decoder.feed(data):
                    self.obey(payload)
            if pidfd in readable:
                return

    def output(self, fd: int) -> None:
        try:
            data = os.read(fd, 16 * DATA_LIMIT)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            data = b""
        stream = self.job.outputs[fd]
        for start_at in range(0, max(1, len(data)), DATA_LIMIT):
            chunk = data[start_at : start_at + DATA_LIMIT]
            message = vsh_pb2.DataMessage(stream=stream, data=chunk)
            self.send(vsh_pb2.HostMessage(data_message=message))
        if not data:
            del self.job.outputs[fd]

    def send(self, message: vsh_pb2.HostMessage) -> None:
        self.connection.sendall(encode_frame(message.SerializeToString()))

    def feed(self) -> None:
        try:
            written = os.write(self.job.input, self.queue[:65536])
        except OSError:
            self.close_input()
            return
        self.queue = self.queue[written:]
        if self.closing and not self.queue:
            self.close_input()

    def close_input(self) -> None:
        self.queue = b""
        if self.job.input >= 0:
            if self.job.process.stdin:
                self.job.process.stdin.close()
            else:
                os.close(self.job.input)
        self.job.input = -1

    def obey(self, payload: bytes) -> None:
        assert len(payload) <= MESSAGE_LIMIT
        message = vsh_pb2.GuestMessage.FromString(payload)
        kind = message.WhichOneof("msg")
        if kind == "data_message" and self.job.input >= 0:
            if message.data_message.data:
                self.queue += message.data_message.data
            elif self.job.master >= 0:
                self.queue += b"\x04"
            else:
                self.closing = True
            if not self.queue:
                self.close_input()
        elif kind == "resize_message" and self.job.master >= 0:
            self.job.resize(message.resize_message.rows, message.resize_message.cols)
        elif kind == "signal":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.job.process.pid, message.signal)


if __name__ == "__main__":
    main()
