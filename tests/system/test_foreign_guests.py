# SPDX-License-Identifier: Apache-2.0
"""Guests whose /init is not our agent: an agent that is a service, and no agent at all."""

from __future__ import annotations

from collections.abc import Callable

from foreign import LOAD, Build
from guests import Inn


def test_the_agent_as_a_service_is_killed_under_its_command(inn: Inn, initrd_with: Build) -> None:
    initrd = initrd_with(LOAD + "/agent serve &\necho $! > /run/agent.pid\nwait\nsleep 1000\n")
    kill = "kill -9 $(cat /run/agent.pid); sleep 1000"
    done = inn("run", "--initrd", initrd, "--", "sh", "-c", kill)
    assert done.code == 125
    assert "the agent in the guest is gone" in done.error


def test_an_init_of_its_own_starts_the_agent_again(
    inn: Inn, initrd_with: Build, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    """Beside another init: commands, a pause, and the agent's own death."""
    again = "while :; do /agent serve & echo $! > /run/agent.pid; wait $!; done\n"
    try:
        assert inn("create", "beside", "--initrd", initrd_with(LOAD + again)).code == 0
        begun = inn("start", "beside")
        assert begun.code == 0, begun.error
        ask = ("exec", "beside", "sh", "-c", "cat /proc/1/comm; cat /run/agent.pid")
        first = inn(*ask)
        assert first.stdout.startswith(b"init\n")
        assert inn("pause", "beside").code == 0
        assert inn("resume", "beside").code == 0
        assert inn(*ask).stdout == first.stdout
        kill = "kill -9 $(cat /run/agent.pid)"
        assert inn("exec", "--detach", "beside", "sh", "-c", kill).code in (0, 125)
        eventually(lambda: inn(*ask).stdout not in (b"", first.stdout))
        told = inn("inspect", "beside").stdout
        assert told.startswith(b"beside: running")
        assert b"0 by its restart policy" in told
    finally:
        inn("rm", "-f", "beside")


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
