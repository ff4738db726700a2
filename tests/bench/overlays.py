# SPDX-License-Identifier: Apache-2.0
"""Initramfs variants: the image's own with a second archive behind it, or a minimal one.

The kernel unpacks all archives of an initramfs; the files of a later one win.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.bench.workspace import Workspace, run_quietly

from innkeeper.images.cpio import Archive

# RB_POWER_OFF of linux/reboot.h
_POWER_OFF = "-DCOMMAND=0x4321FEDC"


def appended(bench: Workspace, name: str, archive: Archive) -> Path:
    """The image's initramfs with `archive` behind it."""
    path = bench.folder / f"{name}.cpio"
    path.write_bytes(Path(bench.plan["image"]["initrd"]).read_bytes() + archive.to_bytes())
    return path


def power_off_program(bench: Workspace) -> bytes:
    """A program without libc that ends the guest at once, as PID 1 or not."""
    options = ("-static", "-nostdlib", "-Os", "-s", _POWER_OFF)
    return bench.compiled("guest/poweroff.c", *options).read_bytes()


def power_off(bench: Workspace) -> Path:
    """The image's initramfs, but /init ends the guest at once."""
    archive = Archive()
    archive.file("init", power_off_program(bench), 0o755)
    return appended(bench, "power-off", archive)


def minimal(bench: Workspace) -> Path:
    """Nothing but an /init that ends the guest at once."""
    archive = Archive()
    archive.device("dev/console", 0o600, 5, 1)
    archive.file("init", power_off_program(bench), 0o755)
    path = bench.folder / "minimal.cpio"
    path.write_bytes(archive.to_bytes())
    return path


def add_program(archive: Archive, program: str) -> None:
    """A host program and the shared libraries that it needs, at their own paths."""
    listed = run_quietly(["ldd", program]).decode()
    for path in {program, *re.findall(r"(/\S+) \(0x", listed)}:
        name = path.lstrip("/")
        if name not in archive:
            archive.file(name, Path(path).read_bytes(), 0o755)
