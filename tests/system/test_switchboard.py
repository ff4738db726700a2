# SPDX-License-Identifier: Apache-2.0
"""Three guests and their streams under stress: nothing is lost, and nobody waits for another.

The programs in the guests are the agent's own and streams.c, which says what its commands do.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Eventually, Inn, alive, record

FILE = """\
name = "board"

[machines.left]
memory = "128M"

[machines.right]
memory = "128M"

[machines.crowd]
memory = "128M"

[[policy]]
from = "left"
to = "right"

[[policy]]
from = "right"
to = "left"
port = "1-99"

[[policy]]
from = "crowd"
to = "right"
port = 7

[[policy]]
from = "crowd"
to = "left"
port = 60
quota = 2
"""
ANOTHER = '\n[[policy]]\nfrom = "crowd"\nto = "right"\nport = 80\n'
NAMES = ("left", "right", "crowd")
PROGRAM = "/usr/bin/streams"
BULK = 64 << 20
RESET = b"Connection reset by peer"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """streams.c, for guests that have no C library."""
    built = tmp_path_factory.mktemp("streams") / "streams"
    source = str(Path(__file__).with_name("streams.c"))
    subprocess.run(["gcc", "-static", "-O2", "-o", str(built), source], check=True)
    return built


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("board") / "board.toml"
    path.write_text(FILE)
    return path


def call(*arguments: str) -> bytes:
    done = subprocess.run([*INN, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def cids(file: Path, program: Path) -> Iterator[dict[str, str]]:
    """The guests run, have the program, and Right's answers; their CIDs by name."""
    call("up", str(file))
    (topology,) = json.loads(call("ps", "--format", "json"))["topologies"]
    for name in NAMES:
        call("cp", str(program), f"{name}:{PROGRAM}")
    with serving("right"):
        yield {machine["name"]: str(machine["cid"]) for machine in topology["machines"]}
    # The last test has taken them down already.
    if json.loads(call("ps", "--format", "json"))["topologies"]:
        call("down", "board")


class serving:  # noqa: N801 - a context, used as a function
    """A guest's program that sends back what comes to port 7."""

    def __init__(self, name: str) -> None:
        argv = [*INN, *guest(name, PROGRAM, "serve", "7")]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def __enter__(self) -> None:
        wait_said(self._process, b"listening\n")

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


def guest(name: str, *command: str) -> tuple[str, ...]:
    return ("exec", name, "--", *command)


def shell(name: str, script: str) -> tuple[str, ...]:
    return guest(name, "sh", "-c", script)


def wait_said(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Read what a program in a guest says on stderr up to this line."""
    assert process.stderr is not None
    before = []
    for said in process.stderr:
        if said == line:
            return
        before.append(said)
    pytest.fail(f"it ended without {line!r}: {before}")


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and the rest of stderr."""
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


@functools.cache
def digest(program: Path, seed: int, count: int) -> str:
    """SHA-256 of what `streams bytes` writes, made on the host."""
    argv = [str(program), "bytes", str(seed), str(count)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as made:
        assert made.stdout is not None
        return hashlib.file_digest(made.stdout, "sha256").hexdigest()  # type: ignore[arg-type]


def check_pings(inn: Inn, cid: str, count: int) -> None:
    """Left's exchanges with Right's echo all succeed."""
    done = inn(*guest("left", PROGRAM, "ping", cid, "7", str(count)))
    assert done.code == 0, done.error
    assert done.stdout.startswith(b"%d ok " % count)


def verdicts(inn: Inn, verdict: str) -> list[tuple[object, object]]:
    """Port and teller of the decisions with this verdict."""
    done = inn("policy", "watch", "--no-follow", "board")
    assert done.code == 0, done.error
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return [(one["port"], one["by"]) for one in told if one["verdict"] == verdict]


def test_64_mib_each_way_at_the_same_time(
    cids: dict[str, str], background: Background, program: Path
) -> None:
    relay = f"streams bytes {{}} {BULK} | inn-agent {{}} 10 | sha256sum"
    far = background(*shell("right", relay.format(2, "vsock-listen")))
    wait_said(far, b"listening\n")
    near = background(*shell("left", relay.format(1, f"vsock-connect {cids['right']}")))
    assert finish(near)[:2] == (0, f"{digest(program, 2, BULK)}  -\n".encode())
    assert finish(far)[:2] == (0, f"{digest(program, 1, BULK)}  -\n".encode())


@pytest.mark.parametrize("sender", ["left", "right"])
@pytest.mark.parametrize("count", [1000, 60000])
def test_a_close_leaves_what_was_sent_to_be_read(
    inn: Inn, cids: dict[str, str], background: Background, sender: str, count: int
) -> None:
    right = cids["right"]
    send, read = ("connect", "listen") if sender == "left" else ("listen", "connect")
    ways = {"connect": f"{right} 11", "listen": "11"}
    reader = "right" if sender == "left" else "left"
    gated = f"rm -f /tmp/gate; mkfifo /tmp/gate; exec streams late-{read} {ways[read]}"
    sending, reading = (
        shell(sender, f"exec streams drop-{send} {ways[send]} {count}"),
        shell(reader, gated),
    )
    first, second = (reading, sending) if read == "listen" else (sending, reading)
    listener = background(*first)
    wait_said(listener, b"listening\n")
    other = background(*second)
    wait_said(other, b"connected\n")
    sends, reads = (other, listener) if read == "listen" else (listener, other)
    # The sender is gone before anybody reads.
    assert finish(sends)[0] == 0
    assert inn(*shell(reader, ": >/tmp/gate")).code == 0
    assert finish(reads)[:2] == (0, b"d" * count)


def test_the_other_half_goes_on_after_a_half_close(
    inn: Inn, cids: dict[str, str], background: Background
) -> None:
    far = background(
        *shell("right", "mkfifo /tmp/gate2; streams bytes 6 5000 | cat - /tmp/gate2 | "
               "inn-agent vsock-listen 12 | wc -c")
    )  # fmt: skip
    wait_said(far, b"listening\n")
    near = background(*shell("left", f"echo all | inn-agent vsock-connect {cids['right']} 12"))
    assert far.stdout is not None
    # Right has seen the end of Left's half; only then comes the rest of its own.
    assert far.stdout.readline() == b"4\n"
    assert inn(*shell("right", "echo the rest >/tmp/gate2")).code == 0
    code, out, _ = finish(near)
    assert (code, len(out), out[5000:]) == (0, 5009, b"the rest\n")


def test_a_stream_that_nobody_reads_delays_no_other(
    inn: Inn, cids: dict[str, str], background: Background
) -> None:
    holder = background(*guest("right", PROGRAM, "hold", "8"))
    wait_said(holder, b"listening\n")
    stuck = [background(*guest("left", PROGRAM, "fill", cids["right"], "8")) for _ in range(2)]
    for one in stuck:
        assert one.stdout is not None
        assert int(one.stdout.readline().removeprefix(b"full ")) > 64 << 10
    check_pings(inn, cids["right"], 50)
    assert [one.poll() for one in stuck] == [None, None]


def test_pages_that_nobody_touched_are_sent(
    inn: Inn, cids: dict[str, str], background: Background, program: Path
) -> None:
    far = background(*shell("right", "inn-agent vsock-listen 13 </dev/null | sha256sum"))
    wait_said(far, b"listening\n")
    done = inn(*guest("left", PROGRAM, "cold", cids["right"], "13", PROGRAM))
    assert done.code == 0, done.error
    expected = hashlib.sha256(program.read_bytes() + bytes(1 << 20)).hexdigest()
    assert finish(far)[:2] == (0, f"{expected}  -\n".encode())


def test_a_storm_of_one_guest_fails_nobody_else(
    inn: Inn, cids: dict[str, str], background: Background
) -> None:
    storm = background(*guest("crowd", PROGRAM, "storm", cids["right"], "7"))
    wait_said(storm, b"storming\n")
    check_pings(inn, cids["right"], 100)
    assert storm.poll() is None
    assert inn(*guest("crowd", "touch", "/tmp/stop")).code == 0
    code, out, err = finish(storm)
    assert code == 0, err
    assert int(out.split()[1]) > 8, out


def test_new_rules_lose_nothing_of_what_stays_allowed(
    inn: Inn, cids: dict[str, str], background: Background, file: Path, program: Path
) -> None:
    far = background(*shell("right", "inn-agent vsock-listen 14 </dev/null | sha256sum"))
    wait_said(far, b"listening\n")
    near = background(
        *shell("left", f"streams bytes 3 0 | inn-agent vsock-connect {cids['right']} 14")
    )
    wait_said(near, b"connected\n")
    other = file.with_name("other.toml")
    other.write_text(FILE + ANOTHER)
    for count in range(20):
        assert inn("policy", "apply", str(file if count % 2 else other)).code == 0
    assert near.poll() is None
    assert inn(*guest("left", "touch", "/tmp/stop")).code == 0
    code, _, err = finish(near)
    assert code == 0
    found = re.search(rb"sent (\d+)\n", err)
    assert found is not None, err
    # More than what all buffers on the way hold.
    assert int(found[1]) > 2 << 20
    expected = digest(program, 3, int(found[1]))
    assert finish(far)[:2] == (0, f"{expected}  -\n".encode())


def test_one_stream_too_many_is_refused_until_another_ends(
    inn: Inn, cids: dict[str, str], background: Background, eventually: Eventually
) -> None:
    holder = background(*guest("left", PROGRAM, "hold", "60"))
    wait_said(holder, b"listening\n")
    dial = f"sleep 999 | exec inn-agent vsock-connect {cids['left']} 60"
    held = [background(*shell("crowd", dial)) for _ in range(2)]
    for one in held:
        wait_said(one, b"connected\n")
    third = guest("crowd", "inn-agent", "vsock-connect", cids["left"], "60")
    refused = inn(*third)
    assert refused.code == 1
    assert RESET in refused.stderr
    assert verdicts(inn, "over-quota") == [(60, "crowd")]
    # A session ends with its connection, and its programs with it.
    held[0].kill()

    def allowed() -> bool:
        again = background(*shell("crowd", dial))
        assert again.stderr is not None
        return again.stderr.readline() == b"connected\n"

    eventually(allowed)


def test_a_guest_that_does_not_answer_is_given_up(inn: Inn, cids: dict[str, str]) -> None:
    assert inn("pause", "right").code == 0
    try:
        done = inn(*guest("left", PROGRAM, "ping", cids["right"], "7", "1"))
    finally:
        assert inn("resume", "right").code == 0
    # The limit is Left's kernel's.
    assert (done.code, done.stderr) == (1, b"streams: exchange: Connection timed out\n")
    check_pings(inn, cids["right"], 5)


def test_a_receiver_that_dies_ends_the_stream_and_nothing_else(
    inn: Inn, cids: dict[str, str], background: Background
) -> None:
    script = "streams hold 15 & echo $! >/tmp/pid; wait"
    far = background(*shell("right", script))
    wait_said(far, b"listening\n")
    near = background(*guest("left", PROGRAM, "fill", cids["right"], "15"))
    wait_said(near, b"connected\n")
    sender = background(
        *shell("left", f"streams bytes 4 1000000000 | inn-agent vsock-connect {cids['right']} 15")
    )
    wait_said(sender, b"connected\n")
    assert inn(*shell("right", "kill -9 $(cat /tmp/pid)")).code == 0
    finish(sender)
    finish(far)
    check_pings(inn, cids["right"], 5)


def test_a_killed_keeper_ends_its_streams_and_its_guest_can_come_back(
    inn: Inn, cids: dict[str, str], background: Background, file: Path, program: Path
) -> None:
    far = background(*shell("right", "inn-agent vsock-listen 16 </dev/null >/dev/null"))
    wait_said(far, b"listening\n")
    near = background(
        *shell(
            "left", f"streams bytes 5 1000000000000 | inn-agent vsock-connect {cids['right']} 16"
        )
    )
    wait_said(near, b"connected\n")
    keepers = {name: record(inn, name)["keeper_pid"] for name in NAMES}
    os.kill(keepers["right"], signal.SIGKILL)
    # Left's program sees the end of its stream, and that is all that Left sees.
    finish(near)
    finish(far)
    assert alive(keepers["left"])
    assert record(inn, "left")["state"] == "running"
    assert record(inn, "right")["state"] == "failed"
    refused = inn(*guest("left", PROGRAM, "ping", cids["right"], "7", "1"))
    assert RESET in refused.stderr
    # Again, with the same CID; the others did not notice.
    assert inn("up", str(file)).code == 0
    assert inn("cp", str(program), f"right:{PROGRAM}").code == 0
    with serving("right"):
        check_pings(inn, cids["right"], 5)
    assert record(inn, "left")["keeper_pid"] == keepers["left"]
    # What has run since belongs to this test alone.
    assert inn("down", "board").code == 0
