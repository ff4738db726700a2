# SPDX-License-Identifier: Apache-2.0
"""`inn logs` of guests that run, flood and end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import INN, Inn


@pytest.fixture
def box(inn: Inn) -> Iterator[str]:
    """A machine that runs; removed at the end."""
    assert inn("create", "logbox").code == 0
    try:
        begun = inn("start", "logbox")
        assert begun.code == 0, begun.error
        yield "logbox"
    finally:
        assert inn("rm", "-f", "logbox").code == 0


@pytest.fixture
def follow() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`inn` with these arguments, which goes on; ended by pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*INN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def say(inn: Inn, box: str, text: str) -> None:
    assert inn("exec", box, "sh", "-c", f"printf '%b\\n' '{text}' > /dev/console").code == 0


def test_logs_of_a_machine(inn: Inn, box: str) -> None:
    say(inn, box, "hello\\033]0;evil\\a")
    done = inn("logs", box)
    assert done.code == 0, done.error
    assert b"hello\\x1b]0;evil\\x07\n" in done.stdout
    assert b"\x1b" not in done.stdout

    say(inn, box, "first")
    say(inn, box, "second")
    assert inn("logs", "-n", "1", box).stdout == b"second\n"
    assert inn("logs", "--grep", "^(first|second)$", box).stdout == b"first\nsecond\n"

    line = json.loads(inn("logs", "-n", "1", "--format", "json", box).stdout)
    assert (line["version"], line["source"], line["text"]) == (1, "console", "second")
    since = inn("logs", "--since", "1970-01-01T00:00:00Z", "-t", "-n", "1", box).stdout
    assert since.endswith(b" second\n")
    assert inn("logs", "--since", "0.000001", box).stdout == b""
    assert inn("logs", "--grep", "(", box).code == 2
    assert inn("logs", "--since", "whenever", box).code == 2
    assert inn("logs", "nobody").code == 2


def test_the_keeper_logs_states_and_stages(inn: Inn, box: str) -> None:
    assert inn("stop", box).code == 0
    text = inn("logs", "--source", "keeper", box).stdout.decode()
    for wanted in ("state starting", "stage boot done", "state running", "state stopped"):
        assert wanted in text, text
    both = inn("logs", "--source", "all", "--format", "json", box).stdout.splitlines()
    lines = [json.loads(line) for line in both]
    assert {line["source"] for line in lines} == {"console", "keeper"}
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)


def test_following_ends_with_the_machine(
    inn: Inn, box: str, follow: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = follow("logs", "-f", "-n", "0", "--grep", "^line", box)
    say(inn, box, "line 0")  # perhaps before the log is open, and then not printed
    watched = follow("logs", "-f", "--grep", "^line", box)
    assert watched.stdout is not None
    assert watched.stdout.readline() == b"line 0\n"
    say(inn, box, "line 1")
    assert watched.stdout.readline() == b"line 1\n"
    assert inn("stop", box).code == 0
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert out.endswith(b"line 1\n")
    assert watched.wait(30) == 0


def test_following_is_ended_by_an_interrupt_or_a_closed_stdout(
    inn: Inn, box: str, follow: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = follow("logs", "-f", box)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 130

    process = follow("logs", "-f", "-n", "1", box)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_a_flooding_guest_does_not_fill_the_disk(
    inn: Inn,
    box: str,
    state_dir: Path,
    follow: Callable[..., subprocess.Popen[bytes]],
) -> None:
    flooding = follow("logs", "-f", "--grep", "^(flood (0|[0-9]+000)|end)$", box)
    script = "seq -f 'flood %.0f' 0 100000 > /dev/console 2>/dev/null || "
    script += "{ i=0; while [ $i -le 100000 ]; do echo flood $i; i=$((i+1)); done; }"
    script = f"({script}) > /dev/console; echo end > /dev/console"
    done = inn("exec", box, "sh", "-c", script)
    assert done.code == 0, done.error
    assert inn("stop", box).code == 0
    out = flooding.communicate(timeout=60)[0].splitlines()
    assert out == [b"flood 0", *(b"flood %d000" % n for n in range(1, 101)), b"end"]
    files = sorted(path.name for path in (state_dir / "machines" / box).glob("console.log*"))
    assert files == ["console.log", "console.log.1", "console.log.2", "console.log.3"]
    sizes = [path.stat().st_size for path in (state_dir / "machines" / box).glob("console.log*")]
    assert all(size <= 1 << 20 for size in sizes)


def test_a_guest_of_a_run_keeps_none(inn: Inn, tmp_path: Path) -> None:
    file = tmp_path / "console"
    done = inn("run", "--console", str(file), "--", "sh", "-c", "echo raw > /dev/console")
    assert done.code == 0, done.error
    assert b"raw\r\n" in file.read_bytes()
