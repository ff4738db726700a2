# SPDX-License-Identifier: Apache-2.0
"""The two vsock devices to compare, each with a guest that runs guest/vsock_peer.c."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import overlays
from tests.bench.guests import held_guest, plain_argv
from tests.bench.workspace import Workspace, run_quietly, running, wait_until

from innkeeper.images.cpio import Archive

OURS = "innkeeper"
THEIRS = "vhost-device-vsock"

_HOW = "cargo install vhost-device-vsock --locked --root DIR, then --tools DIR"

# What our agent does as PID 1, as far as this program needs it.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox modprobe -a {modules}
exec /bin/vsock_peer >/dev/console 2>&1 </dev/console
"""


@dataclass(frozen=True)
class Peer:
    """One device with its guest.

    :ivar vsock: the socket for `CONNECT <port>`.
    :ivar qemu_pid: the process that runs the guest.
    :ivar device_pid: the process that serves the device.
    """

    name: str
    vsock: Path
    qemu_pid: int
    device_pid: int


def _program(bench: Workspace) -> Archive:
    archive = Archive()
    program = bench.compiled("guest/vsock_peer.c", "-static", "-O2", "-s")
    archive.file("bin/vsock_peer", program.read_bytes(), 0o755)
    return archive


@contextlib.contextmanager
def our_peer(bench: Workspace) -> Iterator[Peer]:
    """Our device: threads of the keeper."""
    initrd = overlays.appended(bench, "vsock-ours", _program(bench))
    with held_guest(
        bench, "bench-vsock", ("/bin/vsock_peer",), b"READY\n", "--initrd", str(initrd)
    ) as guest:
        yield Peer(OURS, guest.vsock, guest.pid("qemu"), guest.pid("keeper"))


@contextlib.contextmanager
def their_peer(bench: Workspace) -> Iterator[Peer]:
    """vhost-device-vsock, a process of its own.

    :raise Skipped: it is not installed.
    """
    daemon = bench.tool(THEIRS, _HOW)
    module = bench.plan["qemu"]["devices"][0]["module"]
    transport = {"virtio-mmio": "virtio_mmio", "virtio-pci": "virtio_pci"}
    modules = f"{transport[bench.plan['qemu']['transport']]} {module}"
    archive = _program(bench)
    archive.file("init", _INIT.format(modules=modules).encode(), 0o755)
    initrd = overlays.appended(bench, "vsock-theirs", archive)
    # Below the runtime folder: a Unix socket's path holds 107 bytes.
    folder = Path(os.environ["INN_RUNTIME_DIR"]) / "their-device"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    vhost, vsock = folder / "vhost.sock", folder / "vsock.sock"
    option = bench.plan["qemu"]["devices"][0]["option"].partition(",")[0]
    log, console = bench.folder / "vhost-device-vsock.log", bench.folder / "theirs.console"
    argv = plain_argv(
        bench,
        initrd,
        *("-chardev", f"socket,id=vsock,path={vhost}"),
        *("-device", f"{option},chardev=vsock"),
        console=f"file,path={console}",
    )
    vm = f"guest-cid=3,socket={vhost},uds-path={vsock}"
    with running([daemon, "--vm", vm], log=log) as device:
        wait_until(vhost.exists, "the device's socket", device, log)
        with running(argv, log=log) as qemu:
            wait_until(lambda: _says_ready(console), "READY on the console", qemu, log)
            yield Peer(THEIRS, vsock, qemu.pid, device.pid)


def their_version(bench: Workspace) -> str:
    """What vhost-device-vsock calls itself."""
    return run_quietly([bench.tool(THEIRS, _HOW), "--version"]).decode().strip()


def _says_ready(console: Path) -> bool:
    return console.exists() and b"READY" in console.read_bytes()
