# SPDX-License-Identifier: Apache-2.0
"""Guests whose /init is not our agent: an agent that is a service, and no agent at all.

The kernel unpacks concatenated cpio archives, the later file winning, so the
tiny image's own initramfs is taken and another /init put over it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from guests import Inn

from innkeeper.images.cpio import Archive
from innkeeper.images.tiny import agent_path

SET_UP = """#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/pts; mount -t devpts pts /dev/pts; mount -t tmpfs run /run
"""

# Loads each module after those it needs, as modules.dep lists them.
LOAD = """
cd /lib/modules/$(uname -r)
load() {
    line=$(grep "/$1.ko:" modules.dep); needed=
    for file in ${line#*:}; do needed="$file $needed"; done
    for file in $needed ${line%%:*}; do insmod $file 2>/dev/null; done
}
load virtio_mmio; load vmw_vsock_virtio_transport
"""


Build = Callable[[str], str]


@pytest.fixture
def initrd_with(inn: Inn, tmp_path: Path) -> Build:
    """Make an initramfs: the tiny one with another /init; the agent is /agent."""

    def build(script: str) -> str:
        plan = json.loads(inn("plan", "run", "--format", "json", "--", "true").stdout)["plan"]
        over = Archive()
        over.file("init", (SET_UP + script).encode(), 0o755)
        over.file("agent", agent_path().read_bytes(), 0o755)
        path = tmp_path / "initrd"
        path.write_bytes(Path(plan["image"]["initrd"]).read_bytes() + over.to_bytes())
        return str(path)

    return build


def test_the_agent_as_a_service_is_killed_under_its_command(inn: Inn, initrd_with: Build) -> None:
    initrd = initrd_with(LOAD + "/agent serve &\necho $! > /run/agent.pid\nwait\nsleep 1000\n")
    kill = "kill -9 $(cat /run/agent.pid); sleep 1000"
    done = inn("run", "--initrd", initrd, "--", "sh", "-c", kill)
    assert done.code == 125
    assert "the agent in the guest is gone" in done.error


def test_a_guest_without_an_agent_shows_its_console_and_powers_off(
    inn: Inn, initrd_with: Build
) -> None:
    done = inn(
        "run", "--wait", "none", "--initrd", initrd_with("echo here $((6*7))\npoweroff -f\n")
    )
    assert done.code == 0, done.error
    assert b"here 42" in done.stdout


def test_a_guest_that_should_power_off_and_does_not(inn: Inn, initrd_with: Build) -> None:
    initrd = initrd_with("echo here\nsleep 1000\n")
    done = inn("run", "--wait", "none", "--timeout", "8", "--initrd", initrd)
    assert done.code == 124, done.error
    assert "the guest did not power off within 8 s" in done.error


def test_init_that_ends_is_a_panic_with_its_words(inn: Inn, initrd_with: Build) -> None:
    done = inn("run", "--initrd", initrd_with("exit 3\n"), "--", "true")
    assert done.code == 125
    assert "the agent (PID 1) died in the guest: Attempted to kill init!" in done.error
