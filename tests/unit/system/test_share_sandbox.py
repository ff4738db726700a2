# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a share server, with a shell in the server's place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from innkeeper.system import share_sandbox

PROGRAM = (sys.executable, "-I", "-S", share_sandbox.__file__)

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(root: Path) -> Iterator[Serve]:
    """Start a shell as the server; it says "up" first. As root, with the host's users."""
    started: list[subprocess.Popen[str]] = []

    def run(*shares: str) -> subprocess.Popen[str]:
        mapping = "host" if os.geteuid() == 0 else "user"
        shell = ("/bin/sh", "-c", f"cd {root}/view && echo up && exec sh 2>&1")
        process = subprocess.Popen(
            [*PROGRAM, "serve", str(root), mapping, *shares, "--", *shell],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != "up\n":
            assert process.stderr is not None
            said = process.stderr.read()
            if "Operation not permitted" in said:
                pytest.skip(f"this host lets nobody make namespaces: {said}")
            pytest.fail(said)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], command: str) -> str:
    """What the shell answers, in one line."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"echo $({command} 2>&1)\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def change(verb: str, process: subprocess.Popen[str], root: Path, what: str) -> tuple[int, str]:
    done = subprocess.run(
        [*PROGRAM, verb, str(process.pid), str(root), what],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip()


def test_a_server_sees_its_shares_and_cannot_change_what_is_around(
    root: Path, tmp_path: Path, serve: Serve
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    process = serve(f"a=rw={tmp_path}/one", f"b=ro={tmp_path}/two")
    assert ask(process, "ls") == "a b"
    assert ask(process, "cat a/file b/file") == "onetwo"
    assert ask(process, "touch a/new && echo made") == "made"
    assert (tmp_path / "one" / "new").exists()
    assert "Read-only" in ask(process, "touch b/new")
    assert "Read-only" in ask(process, "touch new")
    # Nothing of it is to be seen outside.
    assert list(root.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts something to share")
def test_read_only_holds_for_what_is_mounted_below(
    tmp_path: Path, serve: Serve, request: pytest.FixtureRequest
) -> None:
    below = tmp_path / "shared" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "below", below], check=True)
    request.addfinalizer(lambda: subprocess.run(["umount", below], check=True))
    process = serve(f"a=ro={tmp_path}/shared", f"b=rw={tmp_path}/shared")
    assert "Read-only" in ask(process, "touch a/below/new")
    assert ask(process, "touch b/below/new && echo made") == "made"


def test_shares_come_and_go(root: Path, tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "one").mkdir()
    process = serve()
    assert ask(process, "ls") == ""
    assert change("add", process, root, f"a=ro={tmp_path}/one") == (0, "")
    assert "Read-only" in ask(process, "touch a/new")
    # Each question has a shell of its own; this one itself stays in the folder.
    assert process.stdin is not None
    process.stdin.write("cd a\n")
    assert ask(process, "pwd").endswith("/a")
    code, said = change("remove", process, root, "a")
    assert (code, said) == (2, "unmount a: Device or resource busy")
    assert ask(process, "ls && echo still there") == "still there"
    process.stdin.write("cd ..\n")
    assert ask(process, "ls") == "a"
    assert change("remove", process, root, "a") == (0, "")
    assert ask(process, "ls") == ""
    assert change("add", process, root, f"a=rw={tmp_path}/one") == (0, "")
    process.stdin.write("cd a\n")
    assert ask(process, "touch new && echo made") == "made"
    assert change("detach", process, root, "a") == (0, "")
    process.stdin.write(f"cd {root}/view\n")
    assert ask(process, "ls") == ""


def test_a_folder_that_is_missing_is_named(root: Path, tmp_path: Path, serve: Serve) -> None:
    process = serve()
    code, said = change("add", process, root, f"a=rw={tmp_path}/none")
    assert (code, said) == (1, f"{tmp_path}/none is no folder")
    assert ask(process, "ls") == ""
    assert change("remove", process, root, "a")[0] == 1
