# SPDX-License-Identifier: Apache-2.0
"""A guest's disks: from files of the host to QEMU's options and the guest's kernel words. Pure.

The guest finds a disk by its serial number, which does not depend on how many
there are or on which bus they are.
"""

from __future__ import annotations

import msgspec

from innkeeper.errors import UsageError
from innkeeper.hypervisors.qemu.pmem import PMEM_MODULES, pmem_root_words
from innkeeper.model.disk import AttachedDisk, DiskFormat
from innkeeper.model.image import Image, Root
from innkeeper.model.machine import Machine

ROOT_SERIAL = "inn-root"
LAYER_SERIAL = "inn-layer"
TOOLS_SERIAL = "inn-tools"

# virtio 1.2, 5.2.6.1: VIRTIO_BLK_ID_BYTES; the guest's kernel cuts off what is longer.
SERIAL_MAXIMUM = 20


_READ_ONLY_TYPES = ("erofs", "squashfs")


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the guest, on virtio-blk.

    :ivar serial: at most 20 characters.
    :ivar path: absolute.
    :ivar keeps_blocks: what the guest frees stays taken on this host.
    """

    serial: str
    path: str
    read_only: bool
    file_format: DiskFormat = "raw"
    keeps_blocks: bool = False

    @property
    def node(self) -> str:
        """The name of the block node in QEMU."""
        return f"disk-{self.serial}"


def plan_disks(
    machine: Machine,
    image: Image,
    *,
    layer: str | None = None,
    attached: tuple[AttachedDisk, ...] = (),
) -> tuple[Disk, ...]:
    """The disks of a start, in the order in which the guest numbers them.

    :param layer: the file that keeps what the guest writes over its root, or is its root.
    :param attached: the machine's own disks.
    :raise UsageError: there is to be such a file, and there is none.
    """
    own = tuple(
        Disk(
            serial=disk.serial,
            path=disk.file,
            read_only=disk.read_only,
            file_format=disk.file_format,
            keeps_blocks=disk.keeps_blocks,
        )
        for disk in attached
    )
    return (*_root_disks(machine, image, layer), *own)


def _root_disks(machine: Machine, image: Image, layer: str | None) -> tuple[Disk, ...]:
    root = image.root
    if root is None:
        return ()
    disks = []
    overlay = machine.root_overlay
    if overlay in ("keep", "copy") and layer is None:
        raise UsageError(
            f"--root-overlay {overlay} needs a machine that stays",
            fix="`inn create` one, or take --root-overlay temp",
        )
    if overlay == "copy":
        _check_copied(machine, root)
        disks.append(Disk(serial=ROOT_SERIAL, path=str(layer), read_only=False))
    elif machine.root_device == "blk":
        disks.append(Disk(serial=ROOT_SERIAL, path=root.path, read_only=True))
    if image.tools is not None:
        disks.append(Disk(serial=TOOLS_SERIAL, path=image.tools.path, read_only=True))
    if overlay == "keep":
        disks.append(Disk(serial=LAYER_SERIAL, path=str(layer), read_only=False))
    return tuple(disks)


def _check_copied(machine: Machine, root: Root) -> None:
    if root.fstype in _READ_ONLY_TYPES:
        raise UsageError(
            f"the image's root is of {root.fstype}, which cannot be written",
            stage="image",
            fix="take --root-overlay keep, or an image that was built with --root-format ext4",
        )
    if machine.root_device != "blk":
        raise UsageError(
            "a root that is written to cannot be in persistent memory",
            stage="image",
            fix="take --root-device blk",
        )


def disk_options(disk: Disk) -> tuple[str, ...]:
    """The `-blockdev` of a disk.

    The format is never guessed, and no file is opened but the one that is named here: a
    guest may write whatever it likes to the beginning of a disk.
    """
    discard = "ignore" if disk.keeps_blocks else "unmap"
    if disk.file_format == "raw":
        path = disk.path.replace(",", ",,")
        state = "on" if disk.read_only else "off"
        node = f"driver=raw,node-name={disk.node}"
        # For zeros that need no blocks the file's own word counts, which is "unmap" else.
        kept = ",file.discard=ignore" if disk.keeps_blocks else ""
        file = f"file.driver=file,file.filename={path}{kept}"
        return ("-blockdev", f"{node},read-only={state},discard={discard},{file}")
    # Only JSON can say "without a backing file, whatever the header says".
    value: dict[str, object] = {
        "driver": disk.file_format,
        "node-name": disk.node,
        "read-only": disk.read_only,
        "discard": discard,
        "backing": None,
        "file": {"driver": "file", "filename": disk.path},
    }
    return ("-blockdev", msgspec.json.encode(value).decode())


def disk_words(attached: tuple[AttachedDisk, ...], image: Image) -> tuple[str, ...]:
    """What the agent must know to mount them (`crates/agent/src/disks/`)."""
    if not image.agent:
        return ()
    return tuple(f'inn.disk="{disk.serial}:{disk.path}:{disk.fstype}"' for disk in attached)


def disk_device(disk: Disk, suffix: str) -> str:
    """The `-device` value of a disk.

    :param suffix: "device" on virtio-mmio, "pci" else.
    """
    return f"virtio-blk-{suffix},drive={disk.node},serial={disk.serial}"


def root_words(machine: Machine, image: Image) -> tuple[str, ...]:
    """What the agent must know to find the root (`crates/agent/src/init/cmdline.rs`)."""
    root = image.root
    if root is None:
        return ()
    own = machine.root_overlay == "copy"
    overlay = {"keep": f"keep:{LAYER_SERIAL}", "copy": "none"}.get(
        machine.root_overlay, machine.root_overlay
    )
    pmem = machine.root_device == "pmem"
    words = list(pmem_root_words(root.fstype) if pmem else (f"inn.root=disk:{ROOT_SERIAL}",))
    words += [f"inn.rootfstype={root.fstype}", "rw" if own else "ro"]
    words.append(f"inn.overlay={overlay}")
    if image.tools is not None:
        tools = image.tools
        words.append(f'inn.tools="{TOOLS_SERIAL}:{tools.mount_point}:{tools.fstype}"')
    if root.init != "agent":
        words += [f"inn.init={root.init}", f"systemd.hostname={machine.name}"]
    return tuple(words)


def root_modules(machine: Machine, image: Image) -> tuple[str, ...]:
    """The guest's modules for its root, in load order."""
    if image.root is None:
        return ()
    layered = ("overlay",) if machine.root_overlay in ("temp", "keep") else ()
    memory = PMEM_MODULES if machine.root_device == "pmem" else ()
    tools = (image.tools.fstype,) if image.tools is not None else ()
    return (*memory, "virtio_blk", image.root.fstype, *tools, *layered)
