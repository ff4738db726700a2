# SPDX-License-Identifier: Apache-2.0
"""`inn run --root host`: a guest on this host's own files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import BOOT_LIMIT_S, INN, Inn

from innkeeper.registry.layout import plan_layout

NOBODY = 65534
PYTHON = "/usr/bin/python3"

# Every line is a claim; what reaches the host is looked at afterwards.
SCRIPT = """
pwd
test -e /tmp/inn-host-root-test || echo own /tmp
echo spoilt > /etc/os-release && cat /etc/os-release
echo new > new && cat new
echo arrives > {rw}/file
echo lost > {rw}/../lost && cat {rw}/../lost
echo {rw}/../*/kept
read line; echo "$line" | {python} -c 'print(input()[::-1])'
exit 7
"""


@pytest.fixture
def shown() -> Iterator[Path]:
    """A folder that is in a guest too, as those in /tmp are not."""
    folder = tempfile.mkdtemp(prefix="inn-test-", dir="/var/tmp")
    yield Path(folder)
    shutil.rmtree(folder)


def test_the_guest_has_this_hosts_files_and_changes_none(shown: Path, inn: Inn) -> None:
    folder = shown / "rw"
    folder.mkdir()
    (folder / "kept").write_text("")
    release = Path("/etc/os-release").read_bytes()
    marker = Path("/tmp/inn-host-root-test")
    marker.touch()
    try:
        done = inn(
            *("run", "--root", "host", "--rw", str(folder), "--"),
            *("sh", "-c", SCRIPT.format(rw=folder, python=PYTHON)),
            stdin=b"olleh\n",
            cwd=shown,
        )
    finally:
        marker.unlink()
    assert done.code == 7, done.error
    # What the host has of it is looked at below.
    assert done.stdout.decode().splitlines() == [
        str(shown),
        *("own /tmp", "spoilt", "new", "lost", f"{folder}/../rw/kept", "hello"),
    ]
    assert Path("/etc/os-release").read_bytes() == release
    assert (folder / "file").read_text() == "arrives\n"
    assert sorted(path.name for path in shown.iterdir()) == ["rw"]


def test_pipes_are_the_commands(tmp_path: Path, inn: Inn) -> None:
    # The current folder is in /tmp, of which a guest has its own: it is shown, read-only.
    (tmp_path / "here").write_text("here\n")
    sent = os.urandom(10 << 20)
    script = "cat here >&2; touch here 2>&1 | sed 's/.*: //' >&2; head -c 9; cat"
    done = inn("run", "--root", "host", "--", "sh", "-c", script, stdin=sent, cwd=tmp_path)
    assert done.code == 0, done.error
    assert hashlib.sha256(done.stdout).hexdigest() == hashlib.sha256(sent).hexdigest(), done.error
    assert done.error == "here\nRead-only file system\n"


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    """A home for the user nobody, with what a first start would fetch."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    home = Path(tempfile.mkdtemp(prefix="home-", dir="/tmp"))
    ours = plan_layout(os.environ, 0).cache
    cache = home / ".cache" / "innkeeper"
    shutil.copytree(ours / "packages", cache / "packages")
    for name in ("accelerator.json", "tsc.json"):
        if (ours / name).is_file():
            shutil.copy(ours / name, cache / name)
    (home / "rw").mkdir()
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700 if path.is_dir() else 0o600)
    yield home
    shutil.rmtree(home)


def test_an_ordinary_user_sees_what_he_may_read(home_of_nobody: Path) -> None:
    home = home_of_nobody
    # setpriv itself starts what its user may not read, so that env starts it. A further
    # group is one that a share server of his may not drop.
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--groups=24", "env")
    env = {"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(home), "TMPDIR": str(home)}
    program: tuple[str, ...] = INN
    if subprocess.run([*drop, *INN, "--version"], capture_output=True, check=False).returncode:
        # Our interpreter is in a folder of root's; the system's may do.
        program = (PYTHON, *INN[1:])
        env["PYTHONPATH"] = ":".join(entry for entry in sys.path if entry.startswith("/"))
        seen = subprocess.run(
            [*drop, *program, "--version"], capture_output=True, env=env, check=False
        )
        if seen.returncode:
            pytest.skip(f"the user nobody cannot run this: {seen.stderr.decode()[-200:]}")
    secret = Path("/etc/shadow").read_text()
    assert secret
    script = (
        "id -u; cat /etc/shadow 2>/dev/null; cat /etc/hostname >/dev/null && echo readable;"
        "echo mine > rw/file; echo changed > /etc/hostname && cat /etc/hostname"
    )
    done = subprocess.run(
        [*drop, *program, "run", "--root", "host", "--rw", "rw", "--", "sh", "-c", script],
        capture_output=True,
        env=env,
        cwd=home,
        timeout=BOOT_LIMIT_S,
        check=False,
    )
    if b"namespaces" in done.stderr:
        pytest.skip(f"this host lets nobody make namespaces: {done.stderr.decode()}")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == ["0", "readable", "changed"]
    written = home / "rw" / "file"
    assert (written.read_text(), written.stat().st_uid) == ("mine\n", NOBODY)
    assert Path("/etc/hostname").read_text() != "changed\n"
