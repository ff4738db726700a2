# SPDX-License-Identifier: Apache-2.0
"""What a root has inside: its kernels, its init, the machine it is for.

A file system in a file is not mounted, which needs root: the tools of its kind take
the few files out that are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from innkeeper.errors import HostError, ImageError
from innkeeper.images.elf import MAGIC
from innkeeper.images.mapped import root_environment
from innkeeper.model.bundle import RootType
from innkeeper.system.process import run_tool

# Programs by which to tell the machine; a root has one of them.
_PROGRAMS = (
    *("usr/bin/dash", "bin/dash", "usr/bin/bash", "bin/bash", "bin/sh", "usr/bin/sh"),
    *("bin/busybox", "usr/bin/busybox", "usr/lib/systemd/systemd", "lib/systemd/systemd"),
)
_INITS = ("usr/sbin/init", "sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd")
_FOLDERS = ("boot", "lib/modules", "usr/lib/modules")

_TIMEOUT_S = 300.0

# e_machine of elf(5), for the message alone.
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64"}
_X86_64 = 62


def take_out(image: Path, kind: RootType, folder: Path) -> bool:
    """Take the files that are looked at out of a file system.

    :param folder: is made; it looks like the root, with just these files.
    :return: False where no tool can do it for this kind.
    :raise HostError: the tool is missing or failed.
    """
    takers: dict[str, Callable[[Path, Path], None]] = {
        "ext4": _from_ext4,
        "squashfs": _from_squashfs,
        "erofs": _from_erofs,
    }
    if kind not in takers:
        return False
    takers[kind](image, folder)
    return True


def _from_ext4(image: Path, folder: Path) -> None:
    folder.mkdir()
    commands = []
    for name in _FOLDERS:
        parent = folder / Path(name).parent
        parent.mkdir(parents=True, exist_ok=True)
        commands.append(f'rdump "/{name}" "{parent}"')
    for name in (*_PROGRAMS, *_INITS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        commands.append(f'dump "/{name}" "{folder / name}"')
    # debugfs goes on after a file that is not there; quotes in a path of ours would not do.
    if '"' in str(folder):
        raise ImageError(f"{folder} has a quote in its path", stage="import")
    script = "\n".join(commands) + "\n"
    run_tool(
        ["debugfs", "-f", "-", str(image)],
        stage="import",
        timeout_s=_TIMEOUT_S,
        stdin_bytes=script.encode(),
        env=root_environment(),
        check=False,
    )


def _from_squashfs(image: Path, folder: Path) -> None:
    wanted = (*_FOLDERS, *_PROGRAMS, *_INITS)
    # It returns 2 for names that are not there.
    argv = ["unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-d", str(folder), str(image)]
    run_tool([*argv, *wanted], stage="import", timeout_s=_TIMEOUT_S, check=False)


def _from_erofs(image: Path, folder: Path) -> None:
    folder.mkdir()
    run_tool(
        ["fsck.erofs", f"--extract={folder}", "--no-preserve", "--overwrite", str(image)],
        stage="import",
        timeout_s=_TIMEOUT_S,
        check=False,
    )


def init_of(tree: Path) -> str:
    """What becomes PID 1 on a root: its own init where it has one, else our agent."""
    return "/sbin/init" if any(_is_there(tree / name) for name in _INITS) else "agent"


def _is_there(path: Path) -> bool:
    if path.is_symlink():
        return True
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def check_machine(tree: Path, what: str) -> None:
    """See that a root's programs are for x86-64, as far as one is found.

    :raise ImageError: they are for another machine.
    """
    top = tree.resolve()
    for name in _PROGRAMS:
        try:
            path = (tree / name).resolve()
            # A link may lead out of the tree, to a program of this host.
            if not path.is_relative_to(top) or not path.is_file():
                continue
            with path.open("rb") as file:
                head = file.read(20)
        except (OSError, RuntimeError):
            continue
        if len(head) == 20 and head.startswith(MAGIC):
            (machine,) = struct.unpack_from("<H", head, 18)
            if machine != _X86_64 or head[4] != 2:
                raise ImageError(
                    f"{what} is for {_MACHINES.get(machine, f'machine {machine}')}, not for x86_64",
                    stage="import",
                    evidence=(f"/{name} is an ELF file for machine {machine}",),
                    fix="take the same for amd64",
                )
            return


def no_tool(kind: RootType) -> HostError:
    """The error for a root whose kernel cannot be looked for."""
    return HostError(
        f"innkeeper cannot look into {kind} for a kernel",
        stage="import",
        fix="give one with --kernel FILE, or take --kernel debian",
    )
