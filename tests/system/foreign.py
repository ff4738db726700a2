# SPDX-License-Identifier: Apache-2.0
"""Guests whose /init is a script and not our agent.

The kernel unpacks concatenated cpio archives, the later file winning, so the
tiny image's own initramfs is taken and another /init put over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from innkeeper.images.cpio import Archive
from innkeeper.images.modules import Module
from innkeeper.images.tiny import agent_path, prepare_tiny
from innkeeper.registry.layout import host_layout

SET_UP = """#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/pts; mount -t devpts pts /dev/pts; mount -t tmpfs run /run
"""

# Loads each module after those it needs, as modules.dep lists them.
LOAD = """
cd /lib/modules/$(uname -r)
load() {
    line=$(grep "/$1.ko:" modules.dep); needed=
    for file in ${line#*:}; do needed="$file $needed"; done
    for file in $needed ${line%%:*}; do insmod $file 2>/dev/null; done
}
load virtio_mmio; load vmw_vsock_virtio_transport
"""

Build = Callable[..., str]


def build_initrd(path: Path, script: str, *, modules: Iterable[Module] = ()) -> str:
    """An initramfs at `path`: the tiny one with another /init; the agent is /agent.

    :param modules: lie beside /init as files named after them.
    """
    files = {
        "init": ((SET_UP + script).encode(), 0o755),
        "agent": (agent_path().read_bytes(), 0o755),
    }
    return extend_initrd(
        path, files | {f"{module.name}.ko": (module.data, 0o644) for module in modules}
    )


def extend_initrd(
    path: Path, files: Mapping[str, tuple[bytes, int]], *, kernel: Path | None = None
) -> str:
    """An initramfs at `path`: the tiny one, and over it these files, each with its mode.

    :param kernel: whose modules it has; None is the tiny image's own.
    """
    image = prepare_tiny(host_layout().cache, report=lambda _line: None, kernel=kernel)
    over = Archive()
    for name, (data, mode) in files.items():
        over.file(name, data, mode)
    path.write_bytes(Path(image.initrd).read_bytes() + over.to_bytes())
    return str(path)
