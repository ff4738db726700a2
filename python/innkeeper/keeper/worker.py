# SPDX-License-Identifier: Apache-2.0
"""A short-lived guest that works on the file system of a disk, so that this host never reads it.

What a guest wrote can break who interprets it. Here that is another guest, which has
this one disk, no network and no shares, and answers with a few lines of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from innkeeper.errors import DiskError
from innkeeper.hypervisors.qemu.facts import qemu_facts
from innkeeper.images.worker import FOLDER, prepare_worker
from innkeeper.keeper.prepare import RunRequest, prepare_run
from innkeeper.keeper.starter import started, wait_ready
from innkeeper.model.disk import DiskFormat, FsType
from innkeeper.model.machine import MEMORY_DEFAULT_BYTES, Machine
from innkeeper.model.sizes import GIB, MIB
from innkeeper.registry.layout import Layout
from innkeeper.registry.names import ephemeral_name

# Checking a disk of many terabytes takes hours.
_WORK_LIMIT_S = 24 * 3600.0
_LINES_SHOWN = 8
_MEMORY_MAXIMUM_BYTES = 8 * GIB
_NODE = "work"

# Exit codes of the scripts.
DONE, TOO_SMALL, OTHER_KIND, DAMAGED, FAILED = 0, 3, 4, 5, 6

# No btrfs is shrunk below this (fs/btrfs/ioctl.c).
_BTRFS_LEAST_BYTES = 256 << 20

_BEGIN = f"""
btrfs_least={_BTRFS_LEAST_BYTES}
device=/dev/vda
tool() {{ name=$1; shift; /{FOLDER}/ld.so --library-path /{FOLDER} /{FOLDER}/$name "$@"; }}
flushed() {{ sync && dd if=/dev/null of=$device conv=notrunc,fsync 2>&1; }}
modprobe virtio_blk || exit {FAILED}
tries=0
while [ ! -b $device ] && [ $tries -lt 100 ]; do tries=$((tries + 1)); usleep 50000; done
bytes() {{ od -An -tx1 -j$1 -N$2 $device | tr -d ' \\n'; }}
kind=
# ext4.h, btrfs_tree.h of the kernel; the former is that of ext2 and ext3 as well.
[ "$(bytes 1080 2)" != 53ef ] || kind=ext4
[ "$(bytes 65600 8)" != 5f42485266535f4d ] || kind=btrfs
echo "inn:kind=$kind"
[ "$kind" = "$fstype" ] || exit {OTHER_KIND}
"""

_EXT4_GROW = f"""
tool e2fsck -p $device; code=$?
[ $((code & ~3)) = 0 ] || exit {DAMAGED}
mkdir -p /work; modprobe ext4 2>/dev/null; mount -t ext4 $device /work || exit {DAMAGED}
tool resize2fs $device || exit {FAILED}
umount /work && flushed || exit {FAILED}
"""

_EXT4_SHRINK = f"""
tool e2fsck -f -p $device; code=$?
[ $((code & ~3)) = 0 ] || exit {DAMAGED}
blocks=$(tool resize2fs -P $device 2>&1 | sed -n 's/.*filesystem: //p')
log=$(od -An -tu4 -j1048 -N4 $device)
minimum=$((blocks * (1024 << log)))
echo "inn:minimum=$minimum"
[ $minimum -gt 0 ] || exit {FAILED}
[ $minimum -le $size ] || exit {TOO_SMALL}
tool resize2fs $device $((size / 1024))K || exit {FAILED}
tool e2fsck -f -n $device || exit {DAMAGED}
flushed || exit {FAILED}
"""

_BTRFS_BEGIN = f"""
mkdir -p /work; modprobe btrfs 2>/dev/null; mount -t btrfs $device /work || exit {DAMAGED}
"""

_BTRFS_GROW = f"""
tool btrfs filesystem resize max /work || exit {FAILED}
umount /work && flushed || exit {FAILED}
"""

_BTRFS_SHRINK = f"""
minimum=$(tool btrfs inspect-internal min-dev-size /work | sed 's/ .*//')
[ "$minimum" -ge $btrfs_least ] || minimum=$btrfs_least
echo "inn:minimum=$minimum"
[ "$minimum" -le $size ] || exit {TOO_SMALL}
said=$(tool btrfs filesystem resize $size /work 2>&1) || {{
    echo "$said"
    case "$said" in *"No space left"*) exit {TOO_SMALL} ;; *) exit {FAILED} ;; esac
}}
umount /work && flushed || exit {FAILED}
"""

_SCRIPTS: dict[tuple[FsType, bool], str] = {
    ("ext4", True): _EXT4_GROW,
    ("ext4", False): _EXT4_SHRINK,
    ("btrfs", True): _BTRFS_BEGIN + _BTRFS_GROW,
    ("btrfs", False): _BTRFS_BEGIN + _BTRFS_SHRINK,
}


class Worked(msgspec.Struct, frozen=True):
    """What the guest said.

    :ivar code: `DONE` or another of those above.
    :ivar kind: what is on the disk, "" for nothing that is known.
    :ivar minimum: bytes that the file system needs, where it was asked for.
    :ivar lines: the end of what the programs said.
    """

    code: int
    kind: str
    minimum: int | None
    lines: tuple[str, ...]


def resize_script(fstype: FsType, *, grow: bool, size: int) -> str:
    """What the guest does. Pure.

    :param size: of the disk, in bytes, where it shrinks.
    """
    return f"fstype={fstype}; size={size}\n{_BEGIN}{_SCRIPTS[fstype, grow]}"


def read_answer(code: int, output: bytes) -> Worked:
    """What the guest's words mean; they may be anything. Pure."""
    text = output.decode("utf-8", "replace")
    kind = re.search(r"^inn:kind=([a-zA-Z0-9_]{0,32})$", text, re.MULTILINE)
    minimum = re.search(r"^inn:minimum=(\d{1,18})$", text, re.MULTILINE)
    lines = tuple(
        "".join(char if char.isprintable() else " " for char in line)[:200]
        for line in text.splitlines()
        if line.strip() and not line.startswith("inn:")
    )
    return Worked(
        code if code in (DONE, TOO_SMALL, OTHER_KIND, DAMAGED) else FAILED,
        kind[1] if kind else "",
        int(minimum[1]) if minimum else None,
        lines[-_LINES_SHOWN:],
    )


def resize_in_guest(
    layout: Layout,
    file: Path,
    file_format: DiskFormat,
    *,
    fstype: FsType,
    base: tuple[Path, DiskFormat] | None = None,
    keeps_blocks: bool = False,
    grow: bool,
    size: int,
    report: Callable[[str], None],
) -> Worked:
    """Have a guest of its own resize the file system on a disk.

    :param file: the disk, or an overlay.
    :param base: what an overlay lies over, with its format; it is only read.
    :param keeps_blocks: what is zeroed or freed stays taken on this host.
    :param grow: to all of the disk; else it shrinks to `size`.
    :raise GuestError: the guest ended.
    :raise MissingProgram: this host lacks what the guest needs.
    """
    initrd = prepare_worker(layout.cache, fstype, report=report)
    suffix = "device" if "microvm" in qemu_facts(layout.cache).machines else "pci"
    # A full disk of this host is an error in the guest, not a guest that waits for ever.
    device = f"virtio-blk-{suffix},drive={_NODE},werror=report,rerror=report"
    blockdev = _blockdev(file, file_format, base, keeps_blocks=keeps_blocks)
    machine = Machine(
        name=ephemeral_name(),
        memory_bytes=_memory_bytes(size),
        initrd=str(initrd),
        qemu_args=("-blockdev", blockdev, "-device", device),
    )
    plan = prepare_run(RunRequest(machine=machine), layout, report=report)
    with started(plan) as keeper:
        from innkeeper.agent.control import ControlClient

        for _ in wait_ready(keeper):
            pass
        with ControlClient(layout.guest(machine.name).agent) as agent:
            script = resize_script(fstype, grow=grow, size=size)
            ended = agent.launch(
                ["sh", "-c", f"exec 2>&1\n{script}"], wait_for_exit=True, timeout_s=_WORK_LIMIT_S
            )
    return read_answer(ended.code if ended.status == "exited" else FAILED, ended.output)


def _memory_bytes(disk_bytes: int) -> int:
    """What e2fsck may need: its bitmaps have a few bits for each block of 4 KiB."""
    more = disk_bytes // 2048 // MIB * MIB
    return max(MEMORY_DEFAULT_BYTES, min(more, _MEMORY_MAXIMUM_BYTES))


def _blockdev(
    file: Path,
    file_format: DiskFormat,
    base: tuple[Path, DiskFormat] | None,
    *,
    keeps_blocks: bool,
) -> str:
    discard = "ignore" if keeps_blocks else "unmap"
    value: dict[str, object] = {
        "node-name": _NODE,
        "driver": file_format,
        "discard": discard,
        "file": {"driver": "file", "filename": str(file), "discard": discard},
    }
    if base is not None:
        path, driver = base
        lower = {"driver": "file", "filename": str(path)}
        backing: dict[str, object] = {"driver": driver, "read-only": True, "file": lower}
        value["backing"] = backing | ({"backing": None} if driver == "qcow2" else {})
    elif file_format == "qcow2":
        value["backing"] = None
    return msgspec.json.encode(value).decode()


def explain(name: str, worked: Worked, *, doing: str) -> DiskError:
    """The error for a file system that could not be resized."""
    why = {
        DAMAGED: "its file system is damaged",
        OTHER_KIND: f"there is {worked.kind or 'nothing that is known'} on it",
    }.get(worked.code, "a program in the guest failed")
    fixes = {DAMAGED: "start a guest with the disk: it repairs what can be repaired"}
    return DiskError(
        f"cannot {doing} the disk {name!r}: {why}",
        stage="resize",
        evidence=worked.lines,
        fix=fixes.get(worked.code, ""),
    )
