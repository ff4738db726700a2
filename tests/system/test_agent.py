# SPDX-License-Identifier: Apache-2.0
"""Control calls to the agent of a real guest."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import Inn

from innkeeper.agent.control import ControlClient
from innkeeper.errors import GuestError

Eventually = Callable[[Callable[[], bool]], None]

NAME = "maitred"
# tzfile(5), version 1: one type of local time, nine hours east of UTC.
ZONE = b"TZif" + bytes(16) + struct.pack(">6liBB", 0, 0, 0, 0, 1, 4, 32400, 0, 0) + b"TST\0"

MS_NOSUID, MS_NOEXEC = 2, 8

# What PID 1 mounts: point, type and the options that keep it harmless.
MOUNTS = {
    "/dev": ("devtmpfs", "nosuid"),
    "/proc": ("proc", "nosuid,nodev,noexec"),
    "/sys": ("sysfs", "nosuid,nodev,noexec"),
    "/dev/pts": ("devpts", "nosuid,noexec,gid=5,mode=620,ptmxmode=666"),
    "/dev/shm": ("tmpfs", "nosuid,nodev"),
    "/run": ("tmpfs", "nosuid,nodev,mode=755"),
    "/tmp": ("tmpfs", "nosuid,nodev"),
    "/sys/fs/cgroup": ("cgroup2", "nosuid,nodev,noexec"),
}


@pytest.fixture
def agent(inn: Inn, runtime_dir: Path) -> Iterator[ControlClient]:
    """The agent of a running machine."""
    assert inn("create", NAME).code == 0
    try:
        begun = inn("start", NAME)
        assert begun.code == 0, begun.error
        with ControlClient(runtime_dir / NAME / "agent.sock") as client:
            yield client
    finally:
        assert inn("rm", "-f", NAME).code == 0


def output(agent: ControlClient, *argv: str) -> str:
    done = agent.launch(argv, wait_for_exit=True)
    assert (done.status, done.code) == ("exited", 0), done
    return done.output.decode()


def test_processes_and_the_kernel(agent: ControlClient) -> None:
    assert agent.kernel_version() == output(agent, "uname", "-r").strip()
    ended = agent.launch(["sh", "-c", "exit 7"], wait_for_exit=True)
    assert (ended.status, ended.code) == ("exited", 7)
    ended = agent.launch(["sh", "-c", "kill -9 $$"], wait_for_exit=True)
    assert (ended.status, ended.code) == ("signaled", 9)
    with pytest.raises(GuestError, match="No such file"):
        agent.launch(["/no/such/program"])
    with pytest.raises(GuestError, match="Permission denied"):
        agent.launch(["/etc/passwd"])
    with pytest.raises(GuestError, match="never exits"):
        agent.launch(["true"], respawn=True, wait_for_exit=True)
    assert output(agent, "sh", "-c", "head -c 200000 /dev/zero") == "\0" * (64 << 10)
    assert agent.launch(["env"], env={"A": "ä b"}, wait_for_exit=True).output.count(
        "A=ä b".encode()
    )
    launched = agent.launch(["sh", "-c", "echo $$ > /tmp/pid; sleep 600"])
    assert (launched.status, launched.code, launched.output) == ("launched", 0, b"")


def test_what_respawns_too_often_is_given_up_and_reported(
    inn: Inn, agent: ControlClient, state_dir: Path, eventually: Eventually
) -> None:
    agent.launch(["sh", "-c", "echo x >> /tmp/starts; exit 3"], respawn=True)
    log = state_dir / "machines" / NAME / "keeper.log"
    told = "respawn: sh exited 10 times in 30 s, the last time with 3"
    eventually(lambda: told in log.read_text())
    assert output(agent, "wc", "-l", "/tmp/starts").split()[0] == "10"
    # Its output goes to the console if that is wanted.
    agent.launch(["echo", "to the console"], use_console=True)
    console = state_dir / "machines" / NAME / "console.log"
    eventually(lambda: "to the console" in console.read_text())


def test_mounts(agent: ControlClient) -> None:
    table = [line.split() for line in output(agent, "cat", "/proc/mounts").splitlines()]
    mounted = {line[1]: (line[2], set(line[3].split(","))) for line in table if line[1] != "/"}
    assert mounted.keys() == MOUNTS.keys()
    for point, (kind, options) in MOUNTS.items():
        assert mounted[point][0] == kind
        assert set(options.split(",")) <= mounted[point][1], point

    flags = MS_NOSUID | MS_NOEXEC
    agent.mount("none", "/tmp/a/b", "tmpfs", flags=flags, options="size=1m", create_target=True)
    (line,) = [
        line for line in output(agent, "cat", "/proc/mounts").splitlines() if "/tmp/a/b" in line
    ]
    assert "nosuid,noexec" in line
    assert "size=1024k" in line
    for source, target, kind, why in (
        ("none", "/no/such", "tmpfs", "No such file"),
        ("none", "/tmp", "no-such-fs", "No such device"),
        ("/no/such/disk", "/tmp", "ext4", "No such"),
        ("none", "", "tmpfs", "Invalid argument"),
        ("none", "/etc/passwd", "tmpfs", "Not a directory"),
        # The same file system twice at one place, unlike another one over it.
        ("cgroup2", "/sys/fs/cgroup", "cgroup2", "resource busy"),
    ):
        with pytest.raises(GuestError, match=why):
            agent.mount(source, target, kind)
    with pytest.raises(GuestError, match="Invalid argument"):
        agent.mount("none", "/tmp", "tmpfs", options="size=nonsense")
    with pytest.raises(GuestError, match="No such file"):
        agent.mount("none", "/tmp/c/d", "tmpfs")


def test_time_and_name_servers(inn: Inn, agent: ControlClient) -> None:
    for nonsense in (0, 999_999_999):
        with pytest.raises(GuestError, match="seconds > 0"):
            agent.set_time(nonsense)
    agent.set_time(2_000_000_000 * 10**9)
    assert 0 <= int(output(agent, "date", "+%s")) - 2_000_000_000 < 60
    agent.set_time()
    assert abs(int(output(agent, "date", "+%s")) - time.time()) < 10

    for name, why in (("../x", "no name"), ("Mars/Olympus", "has no")):
        with pytest.raises(GuestError, match=why):
            agent.set_timezone(name)
    write = "mkdir -p /usr/share/zoneinfo/Test; cat > /usr/share/zoneinfo/Test/Zone"
    assert inn("exec", NAME, "sh", "-c", write, stdin=ZONE).code == 0
    agent.set_timezone("Test/Zone")
    assert output(agent, "readlink", "/etc/localtime").strip() == "/usr/share/zoneinfo/Test/Zone"
    assert output(agent, "date", "+%z").strip() == "+0900"

    agent.set_resolv(nameservers=["10.0.2.3", "fe80::1"], search_domains=["a.example"])
    text = output(agent, "cat", "/etc/resolv.conf")
    assert text == "nameserver 10.0.2.3\nnameserver fe80::1\nsearch a.example\n"
    with pytest.raises(GuestError, match="no IP address"):
        agent.set_resolv(nameservers=["dns.example"])
    with pytest.raises(GuestError, match="no network mask"):
        agent.configure_network(address="10.0.0.1", netmask="255.0.255.0", gateway="10.0.0.2")
    with pytest.raises(GuestError, match="no network interface"):
        agent.configure_network(address="10.0.0.1", netmask="255.0.0.0", gateway="10.0.0.2")


def test_a_shutdown_ends_the_guest(
    inn: Inn, agent: ControlClient, runtime_dir: Path, eventually: Eventually
) -> None:
    agent.shutdown()
    eventually(lambda: not (runtime_dir / NAME).exists())
    assert b"powered off" in inn("inspect", NAME).stdout
