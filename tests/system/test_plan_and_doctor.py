# SPDX-License-Identifier: Apache-2.0
"""The verbs that start no guest, or only a short one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from guests import INN, Inn


def test_the_plan_is_complete_and_starts_nothing(inn: Inn, runtime_dir: Path) -> None:
    done = inn("plan", "run", "--name", "web", "--network", "user", "--", "uname", "-r")
    assert done.code == 0, done.error
    text = done.stdout.decode()
    for part in (
        "-netdev user,id=net0",
        "inn.hostname=web",
        f"{runtime_dir}/web/vsock.sock",
        "uname -r",
        "-sandbox on",
        "vhost-user-vsock-device",
        "memory-backend-memfd",
    ):
        assert part in text
    assert not (runtime_dir / "web").exists()


def test_the_plan_as_json_is_what_a_run_does(inn: Inn) -> None:
    done = inn("plan", "run", "--format", "json", "--memory", "1G", "--", "true")
    value = json.loads(done.stdout)
    plan = value["plan"]
    assert (value["version"], value["command"]["argv"]) == (1, ["true"])
    assert plan["qemu"]["memory_bytes"] == 1 << 30
    assert Path(plan["qemu"]["argv"][plan["qemu"]["argv"].index("-kernel") + 1]).is_file()
    assert [stage["name"] for stage in plan["stages"]] == ["qemu", "boot"]


def test_doctor_checks_everything_the_guests_need(inn: Inn) -> None:
    done = inn("doctor", "--format", "json")
    value = json.loads(done.stdout)
    checks = {check["name"]: check for check in value["checks"]}
    assert list(checks) == [
        *("qemu", "image", "accelerator", "vsock", "socket paths"),
        *("memory", "disk", "virtiofsd", "uefi", "tun", "subuid"),
    ]
    assert done.code == 0, value
    assert value["ok"]
    for check in checks.values():
        assert check["status"] in ("OK", "WARN")
        assert check["reason"]
        assert bool(check["fix"]) == (check["status"] == "WARN")


def test_doctor_fails_where_a_run_would(inn: Inn) -> None:
    done = inn("doctor", env={"INN_QEMU": "/nowhere/qemu"})
    assert done.code == 125
    assert b"FAIL  qemu" in done.stdout
    assert b"to fix it: apt-get install qemu-system-x86" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(inn: Inn, shell: str) -> None:
    script = inn("completion", shell).stdout
    assert b"_INN_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed, so its syntax check cannot run")
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_explains_options_and_exit_codes(inn: Inn) -> None:
    text = inn("--help").stdout.decode()
    assert "Exit codes" in text
    for verb in ("run", "plan", "doctor", "completion"):
        assert verb in text
        shown = inn(verb, "--help")
        assert shown.code == 0
        assert b"\\b" not in shown.stdout
    assert "\n  inn run -- uname -r            a command in a fresh guest\n" in text


def test_output_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*INN, "ls"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.returncode == 125
    assert done.stderr == b"inn: error: cannot write the output: No space left on device\n"
