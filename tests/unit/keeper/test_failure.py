# SPDX-License-Identifier: Apache-2.0
"""Evidence in, error out: every way in which a guest can end has its own words."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import BootFailed, GuestLost, InnError, OutOfMemory
from innkeeper.keeper.failure import (
    Observation,
    explain_agent_loss,
    explain_end,
    explain_timeout,
)

NO_ROOT = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
INIT_DIED = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"


def seen(stage: str = "boot", **values: object) -> Observation:
    return Observation(stage=stage, **values)  # type: ignore[arg-type]  # values by name


@pytest.mark.parametrize(
    ("observation", "kind", "brief", "fix"),
    [
        (
            seen(code=0, shutdown="guest-reset", panic=NO_ROOT, console=("x", NO_ROOT)),
            BootFailed,
            "the guest's kernel panicked: VFS: Unable to mount root fs",
            "no /init that runs",
        ),
        (
            seen(
                code=0,
                panic=NO_ROOT,
                console=("Initramfs unpacking failed: invalid magic at start", NO_ROOT),
            ),
            BootFailed,
            "kernel panicked",
            "initramfs is damaged",
        ),
        (
            seen(code=0, panic="Kernel panic - not syncing: x", console=("Out of memory: y",)),
            OutOfMemory,
            "the guest has not enough memory",
            "--memory",
        ),
        (
            seen(
                code=0,
                shutdown="guest-reset",
                console=("inn-agent: root: mount /dev/vda: the kernel has no driver erofs",),
            ),
            BootFailed,
            "the guest's kernel has no driver erofs, which its root needs",
            "--flavour",
        ),
        (
            seen("run", code=0, panic=INIT_DIED, console=(INIT_DIED,)),
            GuestLost,
            "the agent (PID 1) died in the guest",
            "something killed it",
        ),
        (seen("run", code=-9), GuestLost, "QEMU was killed by signal 9 while it ran", "dmesg"),
        (
            seen("qemu", code=1, stderr=("cannot set up guest memory 'mem': x",)),
            OutOfMemory,
            "the host has not enough memory",
            "smaller --memory",
        ),
        (
            seen("qemu", code=1, stderr=("qemu: bad option",)),
            BootFailed,
            "QEMU failed with exit code 1 before it was ready",
            "inn doctor",
        ),
        (
            seen("boot", code=0, shutdown="guest-shutdown"),
            BootFailed,
            "the guest powered off before it was ready",
            "",
        ),
        (seen("run", code=0, shutdown="guest-reset"), GuestLost, "the guest rebooted", ""),
    ],
)
def test_each_end_has_its_words(
    observation: Observation, kind: type[InnError], brief: str, fix: str
) -> None:
    error = explain_end(observation)
    assert type(error) is kind
    assert brief in error.brief
    assert fix in error.fix
    assert error.stage == observation.stage
    assert error.exit_code == 125


def test_a_timeout_names_the_stage_and_shows_the_console() -> None:
    error = explain_timeout(seen("boot", console=("last line",)), 5.0)
    assert error.brief == "the guest did not become ready within 5 s"
    assert error.evidence == ("last line",)
    assert error.exit_code == 124


def test_a_lost_agent() -> None:
    assert explain_agent_loss(seen("run")).brief == "the agent in the guest is gone"


def test_the_agents_last_words_are_the_reason() -> None:
    console = ("x", "inn-agent: disk: /d: it is no disk", "[ 3.4] reboot: Restarting system")
    seen = Observation(stage="boot", code=0, shutdown="guest-reset", console=console)
    error = explain_end(seen)
    assert error.brief == "the guest cannot use its disk: /d: it is no disk"
    assert "copy" in error.fix
    # A guest that powers off by itself said that for another reason.
    other = msgspec.structs.replace(seen, shutdown="guest-shutdown")
    assert "powered off" in explain_end(other).brief
