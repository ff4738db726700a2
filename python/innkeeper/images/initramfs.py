# SPDX-License-Identifier: Apache-2.0
"""What is in the initramfs of the tiny image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from innkeeper.errors import ImageError
from innkeeper.images.cpio import Archive
from innkeeper.images.elf import Elf
from innkeeper.images.modules import Module, modules_dep
from innkeeper.system.process import run_tool

_LIST_TIMEOUT_S = 10.0
_GUEST_ID = 1000

# Name, mode and owner; the agent mounts proc, sys, dev, run and tmp.
_FOLDERS: tuple[tuple[str, int, int], ...] = (
    ("dev", 0o755, 0),
    ("home/guest", 0o755, _GUEST_ID),
    ("mnt", 0o755, 0),
    ("proc", 0o555, 0),
    ("root", 0o700, 0),
    ("run", 0o755, 0),
    ("sys", 0o555, 0),
    ("tmp", 0o1777, 0),
    ("usr/local/bin", 0o755, 0),
    ("usr/local/sbin", 0o755, 0),
    ("var/log", 0o755, 0),
    ("var/tmp", 0o1777, 0),
)

# Major and minor numbers: Documentation/admin-guide/devices.txt. The kernel opens
# /dev/console for /init before anybody can mount a devtmpfs.
_DEVICES = (("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3))

# Applets that must not hide something of ours, or make no sense below our init.
_NO_LINKS = frozenset({"bin/busybox", "linuxrc", "init", "sbin/init"})


def read_program(path: Path, what: str, fix: str) -> bytes:
    """A program for the guest.

    :raise ImageError: it is missing, unreadable or not statically linked.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise ImageError(f"there is no {what} at {path}", stage="image", fix=fix) from exc
    except OSError as exc:
        raise ImageError(
            f"cannot read the {what} {path}: {exc.strerror}", stage="image", fix=fix
        ) from exc
    if Elf(data, str(path)).has_interpreter():
        raise ImageError(
            f"the {what} {path} is not statically linked, and there are no libraries in the guest",
            stage="image",
            fix=fix,
        )
    return data


def applet_names(busybox: Path) -> list[str]:
    """The paths of the applets that a busybox brings, without a leading slash."""
    done = run_tool([str(busybox), "--list-full"], stage="image", timeout_s=_LIST_TIMEOUT_S)
    lines = done.stdout.decode("utf-8", "replace").split()
    return [line for line in lines if line not in _NO_LINKS]


def build_initramfs(
    *,
    release: str,
    modules: Sequence[Module],
    agent: bytes,
    busybox: bytes,
    applets: Sequence[str],
    data: Mapping[str, bytes],
) -> bytes:
    """The archive that the kernel unpacks into its root.

    :param data: content by name in the guest; what begins with `#!` is executable.
    """
    archive = Archive()
    for name, mode, owner in _FOLDERS:
        archive.folder(name, mode, uid=owner, gid=owner)
    for name, mode, major, minor in _DEVICES:
        archive.device(name, mode, major, minor)
    archive.file("init", agent, 0o755)
    archive.symlink("usr/bin/inn-agent", "/init")
    archive.symlink("usr/bin/inn-guest", "/init")
    archive.file("bin/busybox", busybox, 0o755)
    for name, content in data.items():
        archive.file(name, content, 0o755 if content.startswith(b"#!") else 0o644)
    if modules:
        folder = f"lib/modules/{release}"
        for module in modules:
            archive.file(f"{folder}/{module.path}", module.data)
        archive.file(f"{folder}/modules.dep", modules_dep(modules))
    for name in applets:
        if name not in archive:
            archive.symlink(name, "/bin/busybox")
    return archive.to_bytes()
