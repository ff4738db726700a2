# SPDX-License-Identifier: Apache-2.0
"""Keeper, QEMU and agent killed while a machine starts, runs and stops; the stop ladder.

After each: the record says what happened, nothing is left, the next start works.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import LOAD, Build
from guests import Background, Eventually, Inn, alive, record

from innkeeper.images.modules import select_modules
from innkeeper.images.package import find_package, unpack_package
from innkeeper.registry.layout import host_layout
from innkeeper.registry.names import FIRST_DYNAMIC_CID

# What is promised is 2 s; a host that is shared gets more.
SEEN_WITHIN_S = 2 if os.environ.get("INN_QUIET_HOST") else 10

AGENT_AS_SERVICE = LOAD + "/agent serve &\necho $! > /run/agent.pid\n"
# PID 1 cannot be killed by a signal; it dies of its own code.
KILL_INIT = """
at=$(grep -m1 r-xp /proc/1/maps); from=${at%%-*}; to=${at#*-}; to=${to%% *}
dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((0x$from / 4096)) count=$(((0x$to - 0x$from) / 4096))
sleep 60
"""


class Scene:
    """The machine "victim", and what is done to it and seen of it."""

    def __init__(self, inn: Inn, background: Background, runtime_dir: Path) -> None:
        self.inn = inn
        self.background = background
        self.runtime_dir = runtime_dir

    def create(self, *options: str) -> None:
        done = self.inn("create", "victim", *options)
        assert done.code == 0, done.error

    def start(self) -> None:
        done = self.inn("start", "victim")
        assert done.code == 0, done.error

    def record(self) -> dict[str, Any]:
        return record(self.inn, "victim")

    def state(self) -> dict[str, Any]:
        """What its keeper has said last, {} before that."""
        try:
            value = json.loads((self.runtime_dir / "victim/state.json").read_bytes())
        except (OSError, ValueError):
            return {}
        assert isinstance(value, dict)
        return value

    def events(self) -> Iterator[dict[str, Any]]:
        """Its states from now on; the present one is running."""
        process = self.background("events", "--format", "json", "victim")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "running"
        return map(json.loads, process.stdout)

    def listed(self) -> str:
        """Its line of `inn ls`."""
        lines = self.inn("ls").stdout.decode().splitlines()
        return next(line for line in lines if line.startswith("victim "))

    def works_again(self) -> None:
        self.start()
        assert self.record()["state"] == "running"
        assert self.inn("stop", "-t", "0", "victim").code == 0
        assert list(self.runtime_dir.iterdir()) == []


@pytest.fixture
def scene(inn: Inn, background: Background, runtime_dir: Path) -> Iterator[Scene]:
    """The machine is removed at the end, whatever happened to it."""
    yield Scene(inn, background, runtime_dir)
    assert inn("rm", "-f", "victim").code == 0


def let_boot(state_dir: Path) -> None:
    """Mend a machine whose init blocks."""
    file = state_dir / "machines/victim/machine.json"
    machine = json.loads(file.read_bytes())
    machine["append"] = []
    file.write_text(json.dumps(machine))


@pytest.mark.parametrize("victim", ["keeper", "qemu"])
def test_killed_during_start(
    scene: Scene, eventually: Eventually, state_dir: Path, victim: str
) -> None:
    scene.create("--append", "rdinit=/bin/cat")  # an init that blocks: the guest is never ready
    starting = scene.background("start", "victim")
    eventually(lambda: "qemu" in dict(scene.state().get("stages") or ()))
    seen = scene.state()
    assert seen["state"] == "starting"
    os.kill(int(str(seen[f"{victim}_pid"])), signal.SIGKILL)
    _, error = starting.communicate(timeout=SEEN_WITHIN_S)
    assert starting.returncode == 125
    brief = {
        "keeper": "the keeper of 'victim' ended by signal 9",
        "qemu": "QEMU was killed by signal 9 before it was ready",
    }[victim]
    assert brief in error.decode()
    ended = scene.record()
    assert ended["state"] == "failed"
    assert ended["reason"] == ("its keeper died" if victim == "keeper" else brief)
    assert ended["error"]["stage"] == ("starting" if victim == "keeper" else "boot")
    assert ended["qemu_pid"] is None
    eventually(lambda: not alive(seen["qemu_pid"]) and not alive(seen["keeper_pid"]))
    assert list(scene.runtime_dir.iterdir()) == []
    assert str(ended["reason"]) in scene.listed()
    let_boot(state_dir)
    scene.works_again()


@pytest.mark.parametrize("victim", ["keeper", "qemu"])
def test_killed_in_steady_state(scene: Scene, victim: str) -> None:
    scene.create()
    scene.start()
    events = scene.events()
    since = time.monotonic()
    os.kill(scene.record()[f"{victim}_pid"], signal.SIGKILL)
    event = next(events)
    assert time.monotonic() - since < SEEN_WITHIN_S
    reason = "its keeper died" if victim == "keeper" else "QEMU was killed by signal 9"
    assert (event["state"], event["reason"].startswith(reason)) == ("failed", True)
    ended = scene.record()
    assert ended["reason"].startswith(reason)
    assert ended["error"]["brief"]
    assert reason in scene.listed()
    assert f"last error {ended['error']['brief']}" in scene.inn("inspect", "victim").stdout.decode()
    scene.works_again()


@pytest.mark.parametrize("victim", ["keeper", "qemu"])
def test_killed_during_stop(scene: Scene, eventually: Eventually, victim: str) -> None:
    scene.create()
    scene.start()
    seen = scene.state()
    # A QEMU that stands still does not answer the first rung.
    os.kill(int(str(seen["qemu_pid"])), signal.SIGSTOP)
    stopping = scene.background("stop", "--timeout", "60s", "victim")
    eventually(lambda: scene.state().get("state") == "stopping")
    os.kill(int(str(seen[f"{victim}_pid"])), signal.SIGKILL)
    _, error = stopping.communicate(timeout=SEEN_WITHIN_S)
    assert stopping.returncode == 0, error
    eventually(lambda: not alive(seen["qemu_pid"]) and not alive(seen["keeper_pid"]))
    assert list(scene.runtime_dir.iterdir()) == []
    ended = scene.record()
    assert ended["rung"] is None
    if victim == "keeper":
        assert (ended["state"], ended["reason"]) == ("failed", "its keeper died")
        assert "'stopping'" in ended["error"]["evidence"][0]
    else:
        told = "QEMU was killed by signal 9 while it was stopped"
        assert (ended["state"], ended["reason"]) == ("stopped", told)
        assert ended["error"]["brief"] == told
    scene.works_again()


def test_the_agent_killed_during_start(scene: Scene, initrd_with: Build) -> None:
    # Whoever starts an agent as a service ends with it, as the tiny image's init does.
    script = AGENT_AS_SERVICE + "kill -9 $(cat /run/agent.pid); wait; exit 7\n"
    scene.create("--initrd", initrd_with(script))
    done = scene.inn("start", "victim")
    assert done.code == 125
    assert "Attempted to kill init" in done.error
    ended = scene.record()
    assert ended["state"] == "failed"
    assert any("Kernel panic" in line for line in ended["error"]["evidence"])


def test_the_agent_killed_in_steady_state(scene: Scene) -> None:
    scene.create()
    scene.start()
    events = scene.events()
    done = scene.inn("exec", "victim", "sh", "-c", KILL_INIT)
    assert done.code == 125
    assert next(events)["state"] == "failed"
    ended = scene.record()
    assert "the agent (PID 1) died in the guest" in ended["reason"]
    assert any("Attempted to kill init" in line for line in ended["error"]["evidence"])
    scene.works_again()


def test_the_agent_killed_during_stop(scene: Scene, initrd_with: Build) -> None:
    # The agent asks `poweroff`, and is killed by it; then nobody ends the guest.
    kill = "#!/bin/sh\\nkill -9 $(cat /run/agent.pid)\\n"
    deaf = f"rm /sbin/poweroff; printf '{kill}' > /bin/poweroff; chmod 755 /bin/poweroff\n"
    scene.create(
        "--initrd", initrd_with("rm -f /bin/poweroff\n" + deaf + AGENT_AS_SERVICE + "cat\n")
    )
    scene.start()
    assert scene.inn("stop", "-t", "1s", "victim").code == 0
    ended = scene.record()
    assert (ended["state"], ended["rung"], ended["error"]) == ("stopped", "terminate", None)
    assert list(scene.runtime_dir.iterdir()) == []


def stop_and_time(scene: Scene, timeout: str) -> tuple[str, float]:
    done = scene.inn("stop", "--timeout", timeout, "victim")
    assert done.code == 0, done.error
    text = scene.inn("inspect", "victim").stdout.decode()
    rung = scene.record()["rung"]
    assert f"ended by   {rung}" in text
    return rung, done.seconds


def test_the_first_rung_is_the_agent(scene: Scene) -> None:
    scene.create()
    scene.start()
    # Neither a program that ignores SIGTERM nor one that is stopped holds the guest up.
    stuck = "trap '' TERM HUP; sleep 1000 & kill -STOP $!; (trap '' TERM; sleep 999) & echo up"
    assert scene.inn("exec", "victim", "sh", "-c", stuck + " > /dev/console").code == 0
    rung, seconds = stop_and_time(scene, "20s")
    assert rung == "agent"
    assert seconds < 20


def test_the_second_rung_is_the_power_button(scene: Scene, initrd_with: Build) -> None:
    package = find_package(host_layout().cache / "packages")
    assert package is not None
    button = select_modules(unpack_package(package).modules, ["button", "evdev"])
    script = "insmod /button.ko; insmod /evdev.ko\n" + LOAD
    script += "rm -f /bin/poweroff /sbin/poweroff; /agent serve &\n"
    script += "dd bs=24 count=1 if=/dev/input/event0; busybox poweroff -f\n"
    scene.create("--initrd", initrd_with(script, modules=button))
    scene.start()
    rung, _ = stop_and_time(scene, "1s")
    assert rung == "power-button"


def test_the_third_rung_is_terminating_qemu(scene: Scene, initrd_with: Build) -> None:
    script = "rm -f /bin/poweroff /sbin/poweroff\n" + LOAD + "/agent serve &\ncat\n"
    scene.create("--initrd", initrd_with(script))
    scene.start()
    rung, _ = stop_and_time(scene, "1s")
    assert rung == "terminate"


def test_the_last_rung_is_killing_qemu(scene: Scene) -> None:
    scene.create()
    scene.start()
    qemu_pid = scene.record()["qemu_pid"]
    os.kill(qemu_pid, signal.SIGSTOP)
    rung, _ = stop_and_time(scene, "1s")
    assert rung == "kill"
    assert not alive(qemu_pid)


@pytest.mark.slow
def test_a_keeper_that_hangs_is_told_of_with_the_way_out(scene: Scene) -> None:
    scene.create()
    scene.start()
    keeper_pid = scene.record()["keeper_pid"]
    os.kill(keeper_pid, signal.SIGSTOP)
    done = scene.inn("stop", "-t", "0", "victim")
    assert done.code == 124
    assert f"`kill -9 {keeper_pid}`" in done.error
    os.kill(keeper_pid, signal.SIGKILL)
    assert scene.inn("stop", "victim").code == 0
    assert scene.record()["reason"] == "its keeper died"
    scene.works_again()


@pytest.mark.parametrize(
    ("command", "state_after", "reason"),
    [
        ("poweroff -f", "stopped", "the guest powered off"),
        ("echo c > /proc/sysrq-trigger", "failed", "the guest's kernel panicked"),
    ],
)
def test_an_end_from_inside_is_seen_and_recorded(
    scene: Scene, command: str, state_after: str, reason: str
) -> None:
    scene.create()
    scene.start()
    events = scene.events()
    since = time.time()
    scene.inn("exec", "victim", "sh", "-c", f"{command}; sleep 60")
    event = next(events)
    assert event["at"] - since < SEEN_WITHIN_S
    ended = scene.record()
    assert ended["state"] == event["state"] == state_after
    assert ended["reason"].startswith(reason)
    assert (ended["error"] is None) == (state_after == "stopped")


def test_a_guest_that_keeps_ending_comes_back_later_each_time(scene: Scene) -> None:
    scene.create("--restart", "always")
    scene.start()
    between = []
    events = scene.events()
    for lives in (1, 2):
        scene.inn("exec", "victim", "sh", "-c", "poweroff -f; sleep 60")
        ended = next(events)
        assert (ended["state"], ended["reason"]) == ("stopped", "the guest powered off")
        begun = next(events)
        assert begun["state"] == "starting"
        between.append(begun["at"] - ended["at"])
        assert next(events)["state"] == "running"
        assert scene.record()["restarts"] == lives
    assert between[0] >= 1
    assert between[1] >= 2
    assert scene.inn("stop", "-t", "0", "victim").code == 0
    assert scene.record()["state"] == "stopped"


def test_a_policy_of_failures_alone_leaves_a_guest_that_powered_off(scene: Scene) -> None:
    scene.create("--restart", "on-failure")
    scene.start()
    assert scene.inn("exec", "victim", "sh", "-c", "poweroff -f; sleep 60").code == 125
    assert scene.inn("wait", "victim", "--timeout", "20s").stdout == b"stopped\n"
    assert scene.record()["restarts"] == 0


def counted(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads and children of a process; the last keepers may wait to be reaped."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    tasks = len(list(Path(f"/proc/{pid}/task").iterdir()))
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), tasks, len(children)


LIVES = """
import sys
from innkeeper import Machine
machine = Machine.create("victim")
for line in sys.stdin:
    machine.start()
    assert machine.exec(["true"]).returncode == 0
    machine.stop()
    print(machine.record.guest_cid, flush=True)
machine.remove()
"""


def cycle(times: int, runtime_dir: Path) -> None:
    """A process of the Python API that lives through cycles holds no more after them."""
    with subprocess.Popen(
        [sys.executable, "-c", LIVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as api:
        assert api.stdin is not None
        assert api.stdout is not None
        held = []
        for _ in range(times):
            api.stdin.write(b"\n")
            api.stdin.flush()
            assert api.stdout.readline() == b"%d\n" % FIRST_DYNAMIC_CID
            held.append(counted(api.pid))
            assert list(runtime_dir.iterdir()) == []
        api.stdin.close()
        assert api.wait(60) == 0
    assert {counts[:2] for counts in held} == {held[0][:2]}, held
    assert all(counts[2] <= 2 for counts in held), held


def test_cycles_leave_nothing(runtime_dir: Path) -> None:
    cycle(5, runtime_dir)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_cycles_leave_nothing(runtime_dir: Path) -> None:
    cycle(20, runtime_dir)
