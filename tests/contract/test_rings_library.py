# SPDX-License-Identifier: Apache-2.0
"""The C library against a board: every function of its header, and what it links to."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper._core import RingBoard

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "python" / "innkeeper" / "_guest" / "libinn_rings.so"
HEADER = ROOT / "crates" / "librings" / "include"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Path]:
    """The socket of a guest's programs at a board without other guests."""
    fds = []
    for name in ("guest", "host"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(tmp_path / name))
            listener.listen()
            fds.append(listener.detach())
    board = RingBoard(guest=7, guest_fd=fds[0], host_fd=fds[1], rules=([], [], [], False))
    yield tmp_path / "guest"
    board.close()


def test_every_function_from_c(tmp_path: Path, board: Path) -> None:
    program = tmp_path / "client"
    subprocess.run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{HEADER}",
         f"-L{LIBRARY.parent}", "-o", program, Path(__file__).with_name("rings_client.c"),
         "-linn_rings", f"-Wl,-rpath,{LIBRARY.parent}"],
        check=True,
        timeout=50,
    )  # fmt: skip
    done = subprocess.run([program, board], capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "all of it\n")


def test_the_library_needs_no_other_and_no_version() -> None:
    """Any libc has what it takes: so it is loaded by programs of each."""
    found = subprocess.run(
        ["readelf", "--wide", "--dynamic", "--dyn-syms", "--version-info", LIBRARY],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    ).stdout
    assert "NEEDED" not in found
    assert "No version information" in found
    undefined = {line.split()[-1] for line in found.splitlines() if " UND " in line}
    wanted = {"UND", "__errno_location", "memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"}
    assert undefined <= wanted
