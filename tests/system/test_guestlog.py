# SPDX-License-Identifier: Apache-2.0
"""The guest's own log on the host: prompt, bounded, and harmless."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import Inn

Eventually = Callable[[Callable[[], bool]], None]

FLOOD = 30_000


@pytest.fixture
def machine(inn: Inn) -> Iterator[str]:
    """A running machine."""
    assert inn("create", "logger").code == 0
    try:
        assert inn("start", "logger").code == 0
        yield "logger"
    finally:
        assert inn("rm", "-f", "logger").code == 0


def records(state_dir: Path, name: str) -> list[dict[str, object]]:
    """All lines, the eldest file first; a last one that is being written is left out."""
    files = sorted((state_dir / "machines" / name).glob("guest.log*"), reverse=True)
    lines = b"".join(file.read_bytes() for file in files).split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def test_messages_of_programs_and_of_the_kernel(
    inn: Inn, machine: str, state_dir: Path, eventually: Eventually
) -> None:
    script = r"""logger -p daemon.err hello
        echo '<4>from the kernel' > /dev/kmsg
        logger "$(printf 'hostile \033[31m\377')" """
    assert inn("exec", machine, "sh", "-c", script).code == 0

    def found(text: str) -> list[dict[str, object]]:
        return [item for item in records(state_dir, machine) if text in str(item["text"])]

    eventually(lambda: bool(found("hostile")))
    (hello,) = found("hello")
    assert (hello["source"], hello["severity"], hello["facility"]) == ("user", 3, 3)
    assert abs(float(str(hello["guest_at"])) - time.time()) < 30
    (kernel,) = found("from the kernel")
    assert (kernel["source"], kernel["severity"]) == ("kernel", 4)
    (hostile,) = found("hostile")
    assert str(hostile["text"]).endswith(r"hostile \x1b[31m\xff")
    shown = inn("logs", machine, "--source", "guest").stdout.decode()
    assert "root: hello" in shown
    assert "kernel: from the kernel" in shown


def test_a_flood_is_bounded_and_its_loss_counted(
    inn: Inn, machine: str, state_dir: Path, eventually: Eventually
) -> None:
    flood = f"yes flood | head -n {FLOOD} | logger"
    assert inn("exec", machine, "sh", "-c", flood).code == 0

    def told() -> tuple[int, int]:
        lines = records(state_dir, machine)
        kept = sum(str(line["text"]).endswith("flood") for line in lines)
        return kept, sum(int(str(line.get("count", 0))) for line in lines)

    eventually(lambda: sum(told()) >= FLOOD)
    kept, lost = told()
    assert lost > 0
    assert kept < FLOOD
    # The guest is alive and its log goes on.
    assert inn("exec", machine, "logger", "after").code == 0
    eventually(lambda: any("after" in str(line["text"]) for line in records(state_dir, machine)))


def test_a_run_keeps_no_log(inn: Inn) -> None:
    done = inn("run", "--", "test", "!", "-e", "/dev/log")
    assert done.code == 0, done.error
