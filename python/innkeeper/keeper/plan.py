# SPDX-License-Identifier: Apache-2.0
"""The plan of a whole run: what `inn plan run` prints and the keeper carries out. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec

from innkeeper.hypervisors.qemu.plan import QemuPlan, plan_qemu
from innkeeper.hypervisors.qemu.shares import share_words
from innkeeper.model.disk import AttachedDisk, Layer
from innkeeper.model.firmware import Firmware, GuestFirmware
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine, Wait
from innkeeper.model.network import Link
from innkeeper.model.record import Record
from innkeeper.model.share import SharePlan
from innkeeper.registry.layout import GuestFolder, Layout, LogFolder
from innkeeper.system.sockets import check_socket_path

# Time limits per stage. A boot under TCG on a loaded two-core host took up to
# 20 s; six times that is a guest that will never be ready.
_QEMU_LIMIT_S = 20.0
_BOOT_LIMIT_S = {"kvm": 60.0, "tcg": 120.0}
_NETWORK_LIMIT_S = 20.0
# A damaged disk is repaired before the guest is ready, and may be large.
_REPAIR_LIMIT_S = 600.0
# For what a guest of a run has not written to its disks yet.
RUN_END_LIMIT_S = 30.0


class Stage(msgspec.Struct, frozen=True):
    """A named step of the start, with its own time limit."""

    name: str
    limit_s: float


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the keeper will do, as a value.

    :ivar sockets: purpose to path, in the runtime folder.
    :ivar console_file: where the console is copied to as it is, or None.
    :ivar log_dir: the folder of the guest's logs, console included; None keeps none.
    :ivar stages: the start, in order.
    :ivar timeout_s: the user's limit for the whole run.
    :ivar ends_at: when that is over, on the monotonic clock, which all
        processes of a host share; set when the run begins.
    :ivar attached: the guest ends with its starter.
    :ivar record: what is known of the machine so far; None for a guest that
        nobody keeps.
    :ivar firmware: UEFI firmware and the guest's file of variables.
    :ivar link: the guest's network card.
    :ivar shares: how folders of the host are served, if any are.
    :ivar disks: the machine's own disks.
    :ivar layer: where what the guest writes over its root is kept, if it is.
    :ivar tap_pools: ranges of addresses for tap networks.
    """

    version: int = 1
    machine: Machine
    image: Image
    host: HostFacts
    qemu: QemuPlan
    layout: Layout
    sockets: dict[str, str]
    console_file: str | None
    log_dir: str | None
    wait: Wait
    stages: tuple[Stage, ...]
    timeout_s: float | None = None
    ends_at: float | None = None
    attached: bool = True
    record: Record | None = None
    firmware: GuestFirmware | None = None
    link: Link | None = None
    tap_pools: str = ""
    shares: SharePlan | None = None
    disks: tuple[AttachedDisk, ...] = ()
    layer: Layer | None = None

    @property
    def end_limit_s(self) -> float:
        """The time that the guest of a run gets for its end; 0 where it has nothing to lose."""
        writes = self.layer is not None or any(not disk.read_only for disk in self.disks)
        return RUN_END_LIMIT_S if writes else 0.0

    @property
    def logs(self) -> LogFolder | None:
        """Where the guest's logs are kept, if they are."""
        return None if self.log_dir is None else LogFolder(Path(self.log_dir))

    def limit_s(self, stage: str, now: float) -> tuple[float, float]:
        """The time that a stage has from `now` on, and the limit to tell people of.

        :raise KeyError: the plan has no such stage.
        """
        own_s = {item.name: item.limit_s for item in self.stages}[stage]
        if self.ends_at is None or self.timeout_s is None or self.ends_at - now > own_s:
            return own_s, own_s
        return max(0.0, self.ends_at - now), self.timeout_s


def guestlog_socket(folder: GuestFolder) -> Path:
    """Guest to host, port 9999."""
    return folder.service(9999)


def plan_run(
    machine: Machine,
    image: Image,
    host: HostFacts,
    layout: Layout,
    *,
    wait: Wait,
    timeout_s: float | None = None,
    console_file: str | None = None,
    log_dir: str | None = None,
    record: Record | None = None,
    firmware: Firmware | None = None,
    link: Link | None = None,
    tap_pools: str = "",
    shares: SharePlan | None = None,
    disks: tuple[AttachedDisk, ...] = (),
) -> RunPlan:
    """The plan for one run.

    :raise PathTooLong: a socket path of the plan is over 107 bytes.
    """
    folder = layout.guest(machine.name)
    sockets = _plan_sockets(folder, logs=log_dir is not None)
    stays = record is not None
    own_firmware = _plan_firmware(firmware, machine, layout, stays=stays)
    layer = _plan_layer(machine, image, layout) if stays else None
    return RunPlan(
        machine=machine,
        image=image,
        host=host,
        qemu=plan_qemu(
            machine,
            image,
            host,
            layer=None if layer is None else layer.path,
            attached=disks,
            firmware=own_firmware,
            link=link,
            shares=shares,
        ),
        layout=layout,
        sockets={purpose: str(path) for purpose, path in sockets.items()},
        console_file=console_file,
        log_dir=log_dir,
        wait=wait,
        stages=_plan_stages(machine, host, wait),
        timeout_s=timeout_s,
        attached=record is None,
        record=record,
        firmware=own_firmware,
        link=link,
        tap_pools=tap_pools,
        shares=shares,
        disks=disks,
        layer=layer,
    )


def _plan_sockets(folder: GuestFolder, *, logs: bool) -> dict[str, Path]:
    sockets = {
        "vsock": folder.vsock,
        "announce": folder.announce,
        "guest-rings": folder.guest_rings,
        "rings": folder.rings,
        "agent": folder.agent,
        "keeper": folder.keeper,
    }
    if logs:
        sockets["guestlog"] = guestlog_socket(folder)
    for path in sockets.values():
        check_socket_path(path)
    # A guest dials ports of up to ten digits next to the vsock socket.
    check_socket_path(folder.service(4294967295))
    return sockets


def _plan_firmware(
    firmware: Firmware | None, machine: Machine, layout: Layout, *, stays: bool
) -> GuestFirmware | None:
    if firmware is None:
        return None
    # Those of a run are thrown away with its runtime folder.
    variables = layout.guest(machine.name).firmware_variables
    if stays:
        variables = layout.machine(machine.name).firmware_variables
    return GuestFirmware(firmware=firmware, variables=str(variables))


def _plan_layer(machine: Machine, image: Image, layout: Layout) -> Layer | None:
    if machine.root_overlay not in ("keep", "copy") or image.root is None:
        return None
    folder = layout.machine(machine.name)
    copies = machine.root_overlay == "copy"
    return Layer(
        path=str(folder.own_root if copies else folder.layer),
        description=str(folder.layer_description),
        over=image.digest,
        copy_of=image.root.path if copies else "",
    )


def with_shares(plan: RunPlan, shares: SharePlan) -> RunPlan:
    """The same run with other shares, where the guest had a device for them already."""
    old, new = (" ".join(share_words(some, plan.image)) for some in (plan.shares, shares))
    qemu = plan.qemu
    if old:
        cmdline = qemu.cmdline.replace(old, new, 1)
        argv = tuple(cmdline if arg == qemu.cmdline else arg for arg in qemu.argv)
        qemu = msgspec.structs.replace(qemu, cmdline=cmdline, argv=argv)
    return msgspec.structs.replace(plan, shares=shares, qemu=qemu)


def _plan_stages(machine: Machine, host: HostFacts, wait: Wait) -> tuple[Stage, ...]:
    stages = [Stage("qemu", _QEMU_LIMIT_S)]
    if wait != "none":
        boot_s = _BOOT_LIMIT_S[host.accelerator.accel]
        has_disks = bool(machine.disks) or machine.root_overlay in ("keep", "copy")
        stages.append(Stage("boot", boot_s + has_disks * _REPAIR_LIMIT_S))
        if machine.network != "none":
            stages.append(Stage("network", _NETWORK_LIMIT_S))
    return tuple(stages)
