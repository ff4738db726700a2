# SPDX-License-Identifier: Apache-2.0
"""What goes wrong, provoked for real: one clear message, the documented exit code, nothing left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from guests import Eventually, Inn, Start, alive

# From the fact to the message; the two seconds are the user's
# expectation on a machine that is not shared, so only a hang fails here.
PROMPT_S = 20


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_qemu_that_is_not_installed(inn: Inn) -> None:
    done = inn("run", "--", "true", env={"INN_QEMU": "/nowhere/qemu"})
    assert done.code == 125
    assert "QEMU (/nowhere/qemu) is not installed" in done.error
    assert "apt-get install qemu-system-x86" in done.error


def test_qemu_that_is_too_old(inn: Inn, tmp_path: Path) -> None:
    old = script(tmp_path / "qemu", "echo 'QEMU emulator version 5.2.0 (old)'")
    done = inn("run", "--", "true", env={"INN_QEMU": old, "INN_CACHE_DIR": str(tmp_path / "c")})
    assert done.code == 125
    assert "QEMU 5.2.0 is too old; 7.2 or newer is needed" in done.error


def test_a_kernel_that_is_missing(inn: Inn) -> None:
    done = inn("run", "--kernel", "/nowhere/vmlinuz", "--", "true")
    assert done.code == 125
    assert "/nowhere/vmlinuz" in done.error


def test_a_kernel_that_is_none(inn: Inn, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_text("#!/bin/sh\n" * 500)
    done = inn("run", "--kernel", str(tmp_path / "vmlinuz"), "--", "true")
    assert done.code == 125
    assert "not a" in done.error
    assert "kernel" in done.error


def test_an_initramfs_that_is_none(inn: Inn, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"garbage" * 1000)
    done = inn("run", "--initrd", str(tmp_path / "initrd"), "--", "true")
    assert done.code == 125
    assert "initramfs" in done.error


def test_an_initramfs_that_is_corrupt_inside(inn: Inn, tmp_path: Path) -> None:
    # A good first member, then garbage: only the kernel can find that out.
    (tmp_path / "initrd").write_bytes(b"070701" + b"0" * 104 + os.urandom(100_000))
    done = inn("run", "--initrd", str(tmp_path / "initrd"), "--", "true")
    assert done.code == 125
    assert "kernel panicked" in done.error
    assert "at stage: boot" in done.error
    assert "initr" in done.error.partition("to fix it")[2]


def test_a_kernel_panic_while_a_command_runs(inn: Inn) -> None:
    done = inn("run", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60")
    assert done.code == 125
    assert "the guest's kernel panicked: sysrq triggered crash" in done.error
    assert "Kernel panic - not syncing" in done.error


def test_a_guest_that_never_becomes_ready(inn: Inn) -> None:
    done = inn("run", "--timeout", "4", "--append", "rdinit=/bin/cat", "--", "true")
    assert done.code == 124
    assert "the guest did not become ready within 4 s" in done.error
    assert done.seconds < PROMPT_S


def test_a_command_that_takes_too_long(inn: Inn) -> None:
    done = inn("run", "--timeout", "15", "--", "sleep", "100")
    assert done.code == 124
    assert "15 s" in done.error


def test_more_memory_than_the_host_has(inn: Inn) -> None:
    done = inn("run", "--memory", "100T", "--", "true")
    assert done.code == 125
    assert "the host has" in done.error


def test_too_little_memory_for_a_guest(inn: Inn) -> None:
    done = inn("run", "--memory", "16M", "--", "true")
    assert done.code == 2
    assert "too little" in done.error


def test_the_guest_powers_off_under_its_command(inn: Inn) -> None:
    done = inn("run", "--", "sh", "-c", "poweroff -f; sleep 60")
    assert done.code == 125
    assert "the guest powered off while it ran" in done.error


@pytest.mark.parametrize("victim", ["qemu_pid", "keeper_pid"])
def test_qemu_or_the_keeper_is_killed(
    start_inn: Start, victim: str, eventually: Eventually
) -> None:
    running = start_inn("--", "sh", "-c", "echo up; sleep 100")
    state = running.wait_state("running")
    running.wait_line(b"up\n")
    os.kill(int(str(state[victim])), signal.SIGKILL)
    code, _, error = running.finish()
    assert code == 125
    expected = {
        "qemu_pid": "QEMU was killed by signal 9",
        "keeper_pid": "the keeper of 'busy' ended by signal 9",
    }
    assert expected[victim] in error
    # The kernel kills it with its keeper; a busy host takes a moment to do so.
    eventually(lambda: not alive(state["qemu_pid"]))
    assert not running.folder.exists()


def test_nothing_survives_a_killed_inn(start_inn: Start) -> None:
    running = start_inn("--", "sh", "-c", "echo up; sleep 100")
    state = running.wait_state("running")
    running.wait_line(b"up\n")
    running.process.kill()
    running.process.wait()
    deadline = time.monotonic() + PROMPT_S
    while alive(state["keeper_pid"]) or running.folder.exists():
        assert time.monotonic() < deadline, "the keeper did not end with its starter"
        time.sleep(0.01)
    assert not alive(state["qemu_pid"])


def test_two_guests_with_one_name(start_inn: Start, inn: Inn) -> None:
    first = start_inn("--", "cat")
    first.wait_state("running")
    done = inn("run", "--name", "busy", "--", "true")
    assert done.code == 125
    assert "a guest named 'busy' is running" in done.error
    out, _ = first.process.communicate(b"still there", timeout=60)
    assert (first.process.returncode, out) == (0, b"still there")


def test_a_runtime_folder_with_a_long_path(inn: Inn, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 100)
    folder.mkdir(mode=0o700)
    done = inn("run", "--", "true", env={"INN_RUNTIME_DIR": str(folder)})
    assert done.code == 125
    assert "a Unix socket takes 107" in done.error
    assert "INN_RUNTIME_DIR" in done.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--momory", "1G"), "--memory"),
        (("run", "--image", "tinny", "--", "true"), "did you mean 'tiny'?"),
        (("runn",), "Did you mean 'run'?"),
        (("run", "--memory", "lots"), "'lots' is not a size"),
        (("run", "--name", "No Good"), "is not a machine name"),
        (("run", "--wait", "network", "--", "true"), "--wait network needs a network"),
    ],
)
def test_usage_errors_name_what_was_meant(inn: Inn, arguments: tuple[str, ...], said: str) -> None:
    done = inn(*arguments)
    assert done.code == 2
    assert said in done.error


def test_an_error_as_json(inn: Inn) -> None:
    import json

    done = inn("run", "--format", "json", "--image", "tinny", "--", "true")
    assert done.code == 2
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "UnknownName"
    assert error["exit_code"] == 2
    assert done.stderr == b""
