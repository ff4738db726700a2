# SPDX-License-Identifier: Apache-2.0
"""`inn cp` into and out of a guest, and what a guest may do to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import INN, Inn

Sh = Callable[[str], bytes]


@pytest.fixture(scope="module", autouse=True)
def box(state_dir: Path) -> Iterator[str]:
    """A machine that runs for all tests of this file."""
    for arguments in (["create", "cpbox"], ["start", "cpbox"]):
        subprocess.run([*INN, *arguments], check=True, capture_output=True)
    yield "cpbox"
    subprocess.run([*INN, "rm", "-f", "cpbox"], check=True, capture_output=True)


@pytest.fixture
def sh(inn: Inn) -> Sh:
    """Run a script in the guest, in a folder that is empty at first."""

    def run(script: str) -> bytes:
        done = inn("exec", "cpbox", "--", "sh", "-c", f"cd /tmp/w && {script}")
        assert done.code == 0, done.error
        return done.stdout

    made = inn("exec", "cpbox", "--", "sh", "-c", "rm -rf /tmp/w; mkdir /tmp/w")
    assert made.code == 0, made.error
    return run


def test_a_file_there_and_back(inn: Inn, sh: Sh, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3_000_001))
    file.chmod(0o754)
    os.utime(file, (1000, 1_600_000_000))
    done = inn("cp", str(file), "cpbox:/tmp/w")
    assert done.code == 0, done.error
    assert "copied 2.9M in" in done.error
    assert sh("stat -c '%a %Y %u %s' file") == b"754 1600000000 0 3000001\n"
    assert inn("cp", str(file), "cpbox:/tmp/w/other").code == 0
    assert inn("cp", str(file), "cpbox:/tmp/w/other").code == 0, "it is replaced"
    assert inn("cp", "-q", "cpbox:/tmp/w/other", str(tmp_path)).error == ""
    back = tmp_path / "other"
    assert back.read_bytes() == file.read_bytes()
    assert (back.stat().st_mode & 0o777, back.stat().st_mtime) == (0o754, 1_600_000_000)
    assert inn("cp", "cpbox:/tmp/w/file", str(tmp_path / "renamed")).code == 0
    assert (tmp_path / "renamed").read_bytes() == file.read_bytes()
    assert sh("ls -A") == b"file\nother\n", "nothing temporary stays"


def test_folders_there_and_back(inn: Inn, sh: Sh, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / ("n" * 200)).write_text("deep")
    (tree / "link").symlink_to("sub")
    (tree / "sub").chmod(0o711)
    for target in ("/tmp/w", "/tmp/w/new", "/tmp/w/slash/"):
        done = inn("cp", str(tree), f"cpbox:{target}")
        assert done.code == 0, done.error
    assert inn("cp", f"{tree}/.", "cpbox:/tmp/w/new").code == 0
    assert sh("ls; ls new; cat tree/link/n*; stat -c %a slash/sub") == (
        b"new\nslash\ntree\nlink\nsub\ndeep711\n"
    )
    for source, target in (("tree", "a"), ("tree", "b/"), ("tree/.", "a"), ("tree", "a")):
        done = inn("cp", f"cpbox:/tmp/w/{source}", str(tmp_path) + "/" + target)
        assert done.code == 0, done.error
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["link", "sub", "tree"]
    assert (tmp_path / "b/link").readlink() == Path("sub")
    assert (tmp_path / "b/sub").stat().st_mode & 0o777 == 0o711


def test_stdin_and_stdout(inn: Inn, sh: Sh) -> None:
    data = os.urandom(1_000_000)
    assert inn("cp", "-", "cpbox:/tmp/w/in", stdin=data).code == 0
    assert inn("cp", "cpbox:/tmp/w/in", "-").stdout == data
    assert inn("cp", "cpbox:/tmp/w", "-").code == 2
    assert inn("cp", "-", "cpbox:/tmp/w", stdin=b"").code == 2


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("/nowhere/x", "cpbox:/tmp/w", "there is no /nowhere/x on the host"),
        ("cpbox:/nowhere/x", "/tmp", "there is no /nowhere/x in 'cpbox'"),
        ("/etc/hostname", "cpbox:/nowhere/x", "there is no folder /nowhere in 'cpbox'"),
        ("/etc/hostname", "cpbox:/tmp/w/no/", "there is no folder /tmp/w/no"),
        ("cpbox:/etc/passwd", "/nowhere/x", "there is no folder /nowhere"),
        ("cpbox:/etc/passwd", "/tmp/inn-not-there/", "there is no folder"),
        ("/etc/hostname", "/tmp/x", "one of SRC and DST"),
        ("/etc/hostname", "nobody:/tmp", "unknown machine 'nobody'"),
    ],
)
def test_what_is_not_there_is_named(inn: Inn, sh: Sh, source: str, target: str, told: str) -> None:
    done = inn("cp", source, target)
    assert done.code == 2
    assert told in done.error


def test_a_hostile_guest_is_refused(inn: Inn, sh: Sh, tmp_path: Path) -> None:
    sh("mkdir d; ln -s /etc/passwd d/out; mkdir e; mknod e/null c 1 3; mkfifo f")
    for name in ("d", "e", "f"):
        done = inn("cp", f"cpbox:/tmp/w/{name}", str(tmp_path / "got"))
        assert done.code == 125
        assert "refused what the guest sent" in done.error


def test_full_disks(inn: Inn, sh: Sh, tmp_path: Path) -> None:
    sh("mkdir small; mount -t tmpfs -o size=1m none small")
    try:
        file = tmp_path / "file"
        file.write_bytes(bytes(4 << 20))
        for arguments in ((str(file),), ("-",)):
            done = inn("cp", *arguments, "cpbox:/tmp/w/small/file", stdin=bytes(4 << 20))
            assert done.code == 125
            assert "no space left for /tmp/w/small/file in 'cpbox'" in done.error
            assert sh("ls -A small") == b""
        assert inn("cp", str(file), "cpbox:/tmp/w").code == 0
        full = subprocess.run(
            [
                "sh",
                "-c",
                'ulimit -f 100; exec "$@"',
                "sh",
                *INN,
                "cp",
                "cpbox:/tmp/w/file",
                str(tmp_path / "got"),
            ],
            capture_output=True,
            check=False,
        )
        assert full.returncode == 125
        assert b"no space left to write" in full.stderr
        assert not (tmp_path / "got").exists()
    finally:
        sh("umount small")


@pytest.mark.slow
def test_a_large_file_takes_constant_memory(inn: Inn, sh: Sh, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.truncate(128 << 20)
    # Not ru_maxrss: it counts what the parent had at the fork (exec_mmap in fs/exec.c).
    measured = "import pathlib, sys; sys.argv[0] = 'inn'\n"
    measured += "from innkeeper.cli.main import run_cli\ncode = run_cli(sys.argv[1:])\n"
    measured += "print(pathlib.Path('/proc/self/status').read_text(), file=sys.stderr)"
    peak = re.compile(r"VmHWM:\s+(\d+) kB")
    for arguments in ((str(file), "cpbox:/tmp/w"), ("cpbox:/tmp/w/large", str(tmp_path / "back"))):
        done = subprocess.run(
            [INN[0], "-c", measured, "cp", *arguments], capture_output=True, text=True, check=True
        )
        found = peak.search(done.stderr)
        assert found is not None
        assert int(found[1]) < 100 * 1024, done.stderr
    assert (tmp_path / "back").stat().st_size == 128 << 20


def test_a_guest_that_is_lost_in_the_middle(inn: Inn, tmp_path: Path) -> None:
    assert inn("create", "cplost").code == 0
    try:
        assert inn("start", "cplost").code == 0
        record = json.loads(inn("inspect", "cplost", "--format", "json").stdout)["record"]
        process = subprocess.Popen(
            [*INN, "cp", "cplost:/dev/zero", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.read(1 << 20)
        since = time.monotonic()
        os.kill(record["qemu_pid"], signal.SIGKILL)
        error = process.communicate(timeout=30)[1]
        assert process.returncode == 125
        assert b"cplost" in error
        assert time.monotonic() - since < 15
    finally:
        assert inn("rm", "-f", "cplost").code == 0


def test_an_interrupt_leaves_nothing(inn: Inn, sh: Sh) -> None:
    process = subprocess.Popen(
        [*INN, "cp", "-", "cpbox:/tmp/w/in"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    sh('while [ -z "$(ls -A)" ]; do :; done')
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert sh("ls -A") == b""
    for pipe in (process.stdin, process.stderr):
        assert pipe is not None
        pipe.close()
