# SPDX-License-Identifier: Apache-2.0
"""`inn run` with a command: streams, exit codes, environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from guests import INN, Inn

BIG = 10 * 1024 * 1024


def test_streams_are_separate_and_the_exit_code_is_the_commands(inn: Inn) -> None:
    done = inn("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_ten_mebibytes_of_stdin_from_a_pipe_arrive_unchanged(inn: Inn) -> None:
    data = os.urandom(BIG)
    done = inn("run", "--", "sha256sum", stdin=data)
    assert done.code == 0, done.error
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_a_regular_file_as_stdin_comes_back_unchanged(inn: Inn, tmp_path: Path) -> None:
    data = os.urandom(BIG)
    (tmp_path / "x").write_bytes(data)
    with (tmp_path / "x").open("rb") as file:
        done = inn("run", "--", "cat", stdin=file.fileno())
    assert done.code == 0, done.error
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("sh", "-c", "kill -9 $$"), 137, ""),
        (("no-such-command",), 127, "no-such-command"),
        (("/etc/passwd",), 126, "/etc/passwd"),
    ],
    ids=["killed", "not-found", "not-executable"],
)
def test_exit_codes_of_commands_that_fail(
    inn: Inn, command: tuple[str, ...], code: int, said: str
) -> None:
    done = inn("run", "--", *command)
    assert done.code == code, done.error
    assert said in done.error


def test_environment_folder_user_and_name(inn: Inn) -> None:
    done = inn(
        *("run", "--name", "surely", "--env", "K=two words", "--env", "HOME=/tmp"),
        *("--workdir", "/usr", "--user", "guest", "--"),
        *("sh", "-c", 'echo "$K|$HOME|$(pwd)|$(id -un)|$(hostname)"'),
    )
    assert done.code == 0, done.error
    assert done.stdout == b"two words|/tmp|/usr|guest|surely\n"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--workdir", "/nowhere", "/nowhere"), ("--user", "nobody-such", "nobody-such")],
)
def test_a_folder_or_user_that_is_not_there(inn: Inn, option: str, value: str, said: str) -> None:
    done = inn("run", option, value, "--", "true")
    assert done.code == 125, done.error
    assert said in done.error


def test_the_result_as_json(inn: Inn) -> None:
    done = inn("run", "--format", "json", "--", "sh", "-c", "cat; echo e >&2; exit 3", stdin=b"in")
    assert done.code == 3
    result = json.loads(done.stdout)
    assert (result["version"], result["exit_code"]) == (1, 3)
    assert (result["stdout"], result["stderr"]) == ("in", "e\n")
    assert {"prepare", "qemu", "boot", "guest_kernel", "command", "total"} <= set(result["timings"])


def test_timings_name_every_phase(inn: Inn) -> None:
    done = inn("run", "--timings", "--", "true")
    assert done.code == 0
    for phase in ("prepare", "qemu", "boot", "guest kernel", "command", "end", "total"):
        assert phase in done.error


def test_a_closed_stdout_ends_the_run_quietly() -> None:
    inn = subprocess.Popen(
        [*INN, "run", "--", "yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert inn.stdout is not None
    assert inn.stderr is not None
    assert inn.stdout.readline() == b"y\n"
    inn.stdout.close()
    assert inn.wait(60) == 141
    assert inn.stderr.read() == b""
    inn.stderr.close()


def test_the_user_network_reaches_the_host(inn: Inn) -> None:
    done = inn(
        *("run", "--network", "user", "--", "sh", "-c"),
        "ip -4 addr show; ip route; cat /etc/resolv.conf",
    )
    assert done.code == 0, done.error
    assert b"10.0.2.15/24" in done.stdout
    assert b"default via 10.0.2.2" in done.stdout
    assert b"nameserver 10.0.2.3" in done.stdout


def test_the_console_is_copied_to_a_file(inn: Inn, tmp_path: Path) -> None:
    log = tmp_path / "console"
    done = inn(
        "run", "--console", str(log), "--append", "loglevel=7", "--append", "ignore_loglevel",
        "--", "true",
    )  # fmt: skip
    assert done.code == 0, done.error
    assert b"Linux version" in log.read_bytes()


def test_several_cpus_and_more_memory(inn: Inn) -> None:
    done = inn(
        *("run", "--cpus", "2", "--memory", "768M", "--"),
        *("sh", "-c", "nproc; awk '/MemTotal/{print $2}' /proc/meminfo"),
    )
    assert done.code == 0, done.error
    cpus, memory_kib = map(int, done.stdout.split())
    assert cpus == 2
    assert 650_000 < memory_kib < 768 * 1024
