# SPDX-License-Identifier: Apache-2.0
"""A machine: the description of one guest, and the command to run in it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from innkeeper.errors import UsageError
from innkeeper.model.disk import DiskUse, check_disk_uses
from innkeeper.model.firmware import check_oem_strings, check_qemu_args, parse_firmware
from innkeeper.model.names import check_name
from innkeeper.model.network import NetworkKind, parse_network
from innkeeper.model.ports import PublishedPort
from innkeeper.model.share import Share, ShareCache, ShareTransportChoice, check_shares
from innkeeper.model.sizes import MIB, format_size

Accelerator = Literal["kvm", "tcg"]
AcceleratorChoice = Literal["auto", "kvm", "tcg"]
Network = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={"pattern": "^(none|user|tap|bridge=.+)$", "examples": ["user", "tap"]}
    ),
]
Forward = Literal["none", "auto"]
Wait = Literal["agent", "network", "none"]
RootOverlay = Literal["temp", "keep", "copy", "none"]
RootDevice = Literal["blk", "pmem"]
RootOf = Literal["image", "host"]
RestartPolicy = Literal["never", "on-failure", "always"]

MEMORY_DEFAULT_BYTES = 512 * MIB
# Debian's cloud kernel, its initramfs and a shell; below, it panics before it prints.
MEMORY_MINIMUM_BYTES = 96 * MIB
CPUS_MAXIMUM = 255
# The others are reserved (virtio 1.3, section 5.10.4).
CID_MINIMUM, CID_MAXIMUM = 3, 2**32 - 2


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a guest is made of.

    :ivar cid: the guest's vsock address; None for any that is free when it starts.
    :ivar image: name of an image.
    :ivar flavour: which of the image's kernels; "" is its first.
    :ivar root: whose file system the guest's is: the image's, or this host's, of which it
        changes nothing.
    :ivar root_overlay: what the guest writes over its image's root: into memory, onto a
        disk of its own, into a copy of the root of its own, or nowhere (the root is
        read-only).
    :ivar root_device: how the root reaches the guest: as a disk, or as persistent memory.
    :ivar kernel: a kernel file in place of the image's.
    :ivar initrd: an initramfs in place of the image's.
    :ivar append: words added to the kernel command line.
    :ivar firmware: "default", "uefi" or two files as "CODE:VARIABLES".
    :ivar oem_strings: texts in the guest's SMBIOS table (type 11).
    :ivar timezone: "host" follows the host's; "utc", a name as "Europe/Berlin", or
        "guest" for what the guest says itself.
    :ivar qemu_args: arguments added to QEMU's own.
    :ivar network: "none", "user", "tap" or "bridge=NAME".
    :ivar ports: published ports; they need the network user or tap.
    :ivar disks: disks that stay, with their places in the guest.
    :ivar forward: "auto" leads the host's loopback to ports that the guest listens on.
    :ivar restart: what happens when the guest ends unasked.
    :ivar shares: folders of the host.
    :ivar share_cache: what of them the guest may keep in its own cache.
    :ivar notify: what the host changes in shares wakes the guest's watchers.
    :ivar share_transport: how they get there; "auto" is the best that host and guest can do.
    """

    name: str
    cid: int | None = None
    cpus: int = 1
    memory_bytes: int = MEMORY_DEFAULT_BYTES
    image: str = "tiny"
    flavour: str = ""
    root: RootOf = "image"
    root_overlay: RootOverlay = "temp"
    root_device: RootDevice = "blk"
    kernel: str | None = None
    initrd: str | None = None
    append: tuple[str, ...] = ()
    accel: AcceleratorChoice = "auto"
    network: Network = "none"
    ports: tuple[PublishedPort, ...] = ()
    disks: tuple[DiskUse, ...] = ()
    forward: Forward = "none"
    restart: RestartPolicy = "never"
    firmware: str = "default"
    oem_strings: tuple[str, ...] = ()
    qemu_args: tuple[str, ...] = ()
    timezone: str = "host"
    shares: tuple[Share, ...] = ()
    share_cache: ShareCache = "never"
    share_transport: ShareTransportChoice = "auto"
    notify: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.cid is not None and not CID_MINIMUM <= self.cid <= CID_MAXIMUM:
            raise UsageError(
                f"{self.cid} is no CID of a guest", fix=f"give {CID_MINIMUM} to {CID_MAXIMUM}"
            )
        if not 1 <= self.cpus <= CPUS_MAXIMUM:
            raise UsageError(f"{self.cpus} CPUs", fix=f"give 1 to {CPUS_MAXIMUM}")
        if self.memory_bytes < MEMORY_MINIMUM_BYTES:
            raise UsageError(
                f"{format_size(self.memory_bytes)} of memory is too little for a guest",
                fix=f"give --memory {format_size(MEMORY_MINIMUM_BYTES)} or more",
            )
        self._check_network()
        self._check_host_root()
        check_disk_uses(self.disks)
        if self.memory_bytes % MIB:
            raise UsageError(
                f"{self.memory_bytes} bytes of memory", fix="give a whole number of MiB"
            )
        parse_firmware(self.firmware)
        check_oem_strings(self.oem_strings)
        check_qemu_args(self.qemu_args)
        check_shares(self.shares)

    @property
    def network_kind(self) -> NetworkKind:
        """The network without its details."""
        return parse_network(self.network).kind

    def _check_host_root(self) -> None:
        if self.root != "host":
            return
        if self.image != "tiny" or self.root_device != "blk":
            raise UsageError(
                "--root host takes the place of an image's root",
                fix="leave out --image and --root-device; --kernel chooses another kernel",
            )
        if self.root_overlay == "keep":
            raise UsageError(
                "what a guest writes over the host's root is not kept: the host changes below it",
                fix="take --root-overlay temp, and --rw for folders that it shall write to",
            )

    def _check_network(self) -> None:
        kind = self.network_kind
        if self.ports and kind == "none":
            raise UsageError("published ports need a network", fix="add --network user")
        if self.ports and kind == "bridge":
            raise UsageError(
                "a guest on a bridge has no published ports",
                fix="connect to its own address, or use --network tap",
            )


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command for the guest.

    :ivar argv: empty means the user's login shell.
    :ivar env: variables over the agent's base environment.
    :ivar workdir: folder to start in; None is the user's home or `/`.
    :ivar workdir_of: start where this process of the guest is, in place of `workdir`.
    :ivar user: name or "uid[:gid]"; None is root.
    """

    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    workdir: str | None = None
    workdir_of: int | None = None
    user: str | None = None
