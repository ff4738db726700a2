# SPDX-License-Identifier: Apache-2.0
"""Programs that know TCP alone reach guests by `inn-guest wrap`, in both of its modes."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Inn

# One with static programs, one with the host's.
TOPOLOGY = """\
name = "wrapped"

[machines.static]
memory = "128M"

[machines.dynamic]
memory = "256M"
root = "host"

[[policy]]
from = "*"
to = "*"
"""
MODES = pytest.mark.parametrize("mode", ["preload", "seccomp"])
LIBRARY = "/run/innkeeper/lib/libinn_preload.so"

# Prints what happened; the test compares. `there` echoes on port 7.
CLIENT = """
import array, errno, fcntl, hashlib, json, os, select, socket, struct, sys, termios
there4, there6 = sys.argv[1:3]
said = {}

def word(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "fine"

def wait(one, event):
    poll = select.poll()
    poll.register(one, event)
    poll.poll(30_000)

for name, family, host in (
    ("4", socket.AF_INET, there4),
    ("6", socket.AF_INET6, there6),
    ("mapped", socket.AF_INET6, "::ffff:" + there4),
):
    with socket.socket(family) as one:
        # The descriptor is as good for a second attempt as for the first.
        said["refused " + name] = [word(one.connect, (host, 9)) for _ in range(2)]

with socket.socket() as one:
    one.setblocking(False)
    words = [errno.errorcode[one.connect_ex((there4, 9))]]
    wait(one, select.POLLOUT)
    words.append(errno.errorcode[one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    said["refused later"] = words

waiting = socket.socket()
number = fcntl.fcntl(waiting.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)
waiting.close()
with socket.socket(fileno=number) as one:
    half = struct.pack("ll", 0, 100_000)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, half)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.connect((there4, 7))
    said["closes on exec"] = not os.get_inheritable(number)
    said["peer"] = one.getpeername()
    host, port = one.getsockname()
    said["own"] = [host, 1023 < port < 65536]
    said["again"] = word(one.connect, (there4, 7))
    said["late"] = word(one.recv, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 16)
    said["no TLS in the kernel"] = word(one.setsockopt, socket.IPPROTO_TCP, 31, b"tls")
    said["nodelay"] = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    said["info"] = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0]
    said["congestion"] = one.getsockopt(socket.IPPROTO_TCP, 13, 16).decode()
    said["IP options"] = len(one.getsockopt(socket.IPPROTO_IP, 4, 200))
    said["domain"] = one.getsockopt(socket.SOL_SOCKET, 39)
    said["protocol"] = one.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    one.send(b"12345")
    wait(one, select.POLLIN)
    count = array.array("i", [0])
    fcntl.ioctl(one, termios.FIONREAD, count)
    said["waiting bytes"] = count[0]
    one.recv(5, socket.MSG_WAITALL)
    data = hashlib.sha256(b"x").digest() * 2048
    one.setblocking(True)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    one.sendall(data)
    one.shutdown(socket.SHUT_WR)
    back = b"".join(iter(lambda: one.recv(65536), b""))
    said["half-closed"] = back == data

with socket.socket(socket.AF_INET6) as one:
    one.setblocking(False)
    words = [errno.errorcode[one.connect_ex((there6, 7))]]
    wait(one, select.POLLOUT)
    words.append(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    said["connected later"] = words + [one.getpeername()[:2], one.getblocking()]

with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as one, server.accept()[0] as other:
        one.send(b"tcp")
        said["loopback"] = [other.recv(3).decode(), one.getpeername()[0]]
    with open("/proc/net/tcp") as table:
        said["loopback is TCP"] = f"0100007F:{port:04X}" in table.read()
with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
    one.bind(("127.0.0.1", 0))
    other.sendto(b"udp", one.getsockname())
    said["UDP"] = one.recvfrom(9)[0].decode()
print(json.dumps(said))
"""

# Serves as many connections as told, by epoll, and says who came.
SERVER = """
import os, selectors, socket, sys
port, count, at = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((at, port))
server.listen(1)
server.listen(16)
assert server.getsockname() == (at, port), server.getsockname()
# As programs do that listen on both families; the port is one.
second = socket.socket(socket.AF_INET6)
second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
second.bind(("::", port))
second.listen()
server.setblocking(False)
chosen = selectors.EpollSelector()
chosen.register(server, selectors.EVENT_READ)
print("listening", flush=True)
while count:
    chosen.select()
    try:
        one, who = server.accept()
    except BlockingIOError:
        continue
    count -= 1
    assert who == one.getpeername()
    one.setblocking(True)
    data = b"".join(iter(lambda: one.recv(100), b""))
    one.sendall(data.upper() + who[0].encode() + b" " + one.getsockname()[0].encode())
    one.close()
"""

Pair = dict[str, int]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both guests run, and an echo on port 7 of `static`; their CIDs by name."""
    file = tmp_path_factory.mktemp("topology") / "wrapped.toml"
    file.write_text(TOPOLOGY)
    up = subprocess.run([*INN, "up", str(file)], capture_output=True, check=False)
    assert up.returncode == 0, up.stderr.decode()
    listed = subprocess.run([*INN, "ps", "--format", "json"], capture_output=True, check=True)
    (topology,) = json.loads(listed.stdout)["topologies"]
    cids = {machine["name"]: machine["cid"] for machine in topology["machines"]}
    echo = "inn-guest wrap nc -ll -p 7 -e cat >/dev/null 2>&1 </dev/null &"
    subprocess.run([*INN, *guest("static", "setsid", "sh", "-c", echo)], check=True)
    ask = f"until /run/innkeeper/inn-agent vsock-connect {cids['static']} 7 </dev/null; do :; done"
    ready = [*INN, *guest("dynamic", "timeout", "90", "sh", "-c", ask)]
    subprocess.run(ready, check=True, capture_output=True)
    yield cids
    down = subprocess.run([*INN, "down", "wrapped"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


def guest(name: str, *command: str) -> tuple[str, ...]:
    return ("exec", name, "--", *command)


def wrapped(mode: str, program: str, *arguments: str) -> tuple[str, ...]:
    python = ("python3", "-c", program, *arguments)
    return guest("dynamic", "inn-guest", "wrap", "--mode", mode, "--", *python)


def four(cid: int) -> str:
    """The address of 240.0.0.0/8 that stands for a guest."""
    return f"240.{cid >> 16 & 255}.{cid >> 8 & 255}.{cid & 255}"


def six(cid: int) -> str:
    return f"fd69:6e6e:6b70::{cid:x}"


def listening(background: Background, *command: str) -> subprocess.Popen[bytes]:
    process = background(*command)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"listening\n", process.stderr.read().decode()
    return process


@MODES
def test_a_client_does_not_notice(inn: Inn, pair: Pair, mode: str) -> None:
    there, own = pair["static"], pair["dynamic"]
    done = inn(*wrapped(mode, CLIENT, four(there), six(there)))
    assert done.code == 0, done.error
    refused = ["ECONNREFUSED", "ECONNREFUSED"]
    assert json.loads(done.stdout) == {
        "refused 4": refused,
        "refused 6": refused,
        "refused mapped": refused,
        "refused later": ["EINPROGRESS", "ECONNREFUSED"],
        "closes on exec": True,
        "peer": [four(there), 7],
        "own": [four(own), True],
        "again": "EISCONN",
        "late": "EAGAIN",
        "no TLS in the kernel": "ENOPROTOOPT",
        "nodelay": 1,
        "info": 1,
        "congestion": "cubic\0",
        "IP options": 0,
        "domain": socket.AF_INET,
        "protocol": socket.IPPROTO_TCP,
        "waiting bytes": 5,
        "half-closed": True,
        "connected later": ["EINPROGRESS", 0, [six(there), 7], False],
        "loopback": ["tcp", "127.0.0.1"],
        "loopback is TCP": True,
        "UDP": "udp",
    }


@pytest.mark.parametrize(
    ("mode", "explicit"),
    # The wildcard in the other mode is that of the test of those who are let in.
    [("preload", False), ("preload", True), ("seccomp", True)],
    ids=["preload-wildcard", "preload-own-address", "seccomp-own-address"],
)
def test_a_server_does_not_notice(
    inn: Inn, pair: Pair, background: Background, mode: str, explicit: bool
) -> None:
    there = pair["dynamic"]
    at = four(there) if explicit else "0.0.0.0"
    server = listening(background, *wrapped(mode, SERVER, "8000", "2", at))
    # busybox is static: its connect is watched by seccomp.
    client = f"echo hello | inn-guest wrap nc {four(there)} 8000"
    done = inn(*guest("static", "sh", "-c", client))
    assert done.stdout.decode() == f"HELLO\n{four(pair['static'])} {four(there)}", done.error
    # A stranger to inet addresses has a port that none of them can say.
    done = inn(*guest("static", "inn-agent", "vsock-connect", str(there), "8000"), stdin=b"x")
    assert done.stdout.decode() == f"X{four(pair['static'])} {four(there)}", done.error
    assert server.wait(30) == 0


def test_static_programs_and_names(inn: Inn, pair: Pair, background: Background) -> None:
    assert pair
    serve = "mkdir /tmp/www; echo here > /tmp/www/index.html; exec inn-guest wrap httpd -f -p 80"
    background(*guest("static", "sh", "-c", f"{serve} -h /tmp/www"))
    fetch = (
        "import time, urllib.request as web, urllib.error as wrong\n"
        "while True:\n"
        "    try:\n"
        "        print(web.urlopen('http://static.inn/index.html').read().decode())\n"
        "        break\n"
        "    except wrong.URLError as error:\n"
        "        assert isinstance(error.reason, ConnectionRefusedError), error\n"
    )
    done = inn(*wrapped("auto", fetch))
    assert (done.code, done.stdout) == (0, b"here\n\n"), done.error


def test_the_exit_status_and_signals_are_the_programs(inn: Inn, pair: Pair) -> None:
    assert pair
    for command, code in (
        (("sh", "-c", "exit 7"), 7),
        # Its children are its own alone.
        (("sh", "-c", "sleep 0 & wait; kill -TERM $$"), 128 + 15),
        (("no-such-program",), 127),
        (("/etc/passwd",), 126),
        (("--mode", "odd", "true"), 2),
    ):
        done = inn(*guest("static", "inn-guest", "wrap", *command))
        assert done.code == code, done.error
    # One under watch may start another; what it starts is watched already.
    nested = "inn-guest wrap inn-guest wrap nc -w 9 240.0.0.2 9"
    done = inn(*guest("static", "sh", "-c", nested))
    assert b"Connection refused" in done.stderr


def test_the_seeds_variables(inn: Inn, pair: Pair) -> None:
    there, own = pair["static"], pair["dynamic"]
    domain = f"1.0.{there >> 8}.{there & 255}"
    client = (
        "import socket, sys\n"
        "one = socket.create_connection((sys.argv[1], 7), 9)\n"
        "print(*one.getsockname(), *one.getpeername())\n"
    )
    python = ("python3", "-c", client)
    env = (f"LD_PRELOAD={LIBRARY}", "ARGO_CLIENT_PORT_ADDEND=4000")
    done = inn(*guest("dynamic", "env", "INET_IS_ARGO=1", *env, *python, domain))
    expected = f"1.0.{own >> 8}.{own & 255} 4007 {domain} 7\n"
    assert done.stdout.decode() == expected, done.error
    # Without it the library is loaded and does nothing.
    done = inn(*guest("dynamic", "env", *env, *python, four(there)))
    assert done.code == 1
    assert "Network is unreachable" in done.error


@MODES
def test_the_host_alone_may_be_let_in(
    inn: Inn, pair: Pair, background: Background, runtime_dir: Path, mode: str
) -> None:
    there = pair["dynamic"]
    command = wrapped(mode, SERVER, "8100", "1", "0.0.0.0")
    at = command.index("inn-guest")
    server = listening(background, *command[:at], "env", "ARGO_ACCEPT_DOM0_ONLY=1", *command[at:])
    client = f"echo hello | inn-guest wrap nc {four(there)} 8100"
    assert inn(*guest("static", "sh", "-c", client)).stdout == b""
    with socket.socket(socket.AF_UNIX) as host:
        host.settimeout(30)
        host.connect(str(runtime_dir / "dynamic" / "vsock.sock"))
        host.sendall(b"CONNECT 8100\n")
        with host.makefile("rb") as lines:
            assert lines.readline().startswith(b"OK ")
            host.sendall(b"host ")
            host.shutdown(socket.SHUT_WR)
            assert lines.read().decode() == f"HOST {four(2)} {four(there)}"
    assert server.wait(30) == 0
