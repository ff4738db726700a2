# SPDX-License-Identifier: Apache-2.0
"""From a machine to a plan: finds QEMU, the image and the accelerator on this host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, NameInUse, OutOfMemory, UsageError
from innkeeper.hypervisors.qemu.facts import qemu_facts
from innkeeper.hypervisors.qemu.firmware import find_firmware
from innkeeper.hypervisors.qemu.probe import choose_accelerator
from innkeeper.images.kernel import check_efi_stub, check_initrd
from innkeeper.images.tiny import NAME as TINY
from innkeeper.images.tiny import prepare_tiny
from innkeeper.keeper.disks import needed_fstypes, prepare_disks
from innkeeper.keeper.plan import RunPlan, plan_run
from innkeeper.keeper.shares import prepare_shares
from innkeeper.model.disk import FsType
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine, Wait
from innkeeper.model.network import Link, mac_address, parse_network
from innkeeper.model.ports import PublishedPort
from innkeeper.model.record import Record
from innkeeper.model.share import SHARE_DRIVERS
from innkeeper.model.sizes import MIB, format_size
from innkeeper.networks.check import check_network
from innkeeper.networks.plan import DEFAULT_POOLS
from innkeeper.registry.layout import Layout
from innkeeper.registry.names import check_free
from innkeeper.switchboard.native import tsc_khz
from innkeeper.system.host import device_access, host_identity, memory_available_bytes
from innkeeper.system.ports import find_port_fault, find_port_holder
from innkeeper.system.zone import named_zone

# QEMU itself with TCG's translation cache, and the keeper.
_OVERHEAD_BYTES = 96 * MIB


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for, apart from the command.

    :ivar console_file: a path, or "-" for our stdout.
    :ivar log_dir: a folder for the guest's logs.
    """

    machine: Machine
    wait: Wait = "agent"
    timeout_s: float | None = None
    console_file: str | None = None
    log_dir: str | None = None


def prepare_run(
    request: RunRequest,
    layout: Layout,
    *,
    report: Callable[[str], None],
    may_boot: bool = True,
    record: Record | None = None,
) -> RunPlan:
    """Everything that must be known before a start.

    Builds the image where it is missing, and tries KVM with a short boot where
    that is not known yet.

    :param report: called with a line for each long step.
    :param may_boot: without it nothing is tried: neither the accelerator nor published ports.
    :param record: of a machine that stays; without it the guest is nobody's.
    :raise InnError: something is missing; its fields say what.
    """
    machine = request.machine
    check_free(layout, machine.name)
    if record is None and layout.machine(machine.name).path.is_dir():
        raise NameInUse(
            f"there is a machine named {machine.name!r}",
            stage="name",
            fix=f"`inn start {machine.name}` starts it; for a run, choose another --name",
        )
    tap_pools = os.environ.get("INN_TAP_POOL") or DEFAULT_POOLS
    check_network(parse_network(machine.network), pools=tap_pools)
    qemu = qemu_facts(layout.cache)
    firmware = find_firmware(machine.firmware)
    check_zone(machine.timezone)
    disks = prepare_disks(machine, layout)
    stays = record is not None
    fstypes = needed_fstypes(machine, disks)
    image = _choose_image(machine, layout, report, stays=stays, fstypes=fstypes)
    shares = prepare_shares(machine, image, qemu, layout, report=report, stays=stays)
    if firmware is not None:
        check_efi_stub(Path(image.kernel_source))
    verdict = choose_accelerator(
        machine.accel,
        qemu,
        image.kernel,
        layout.cache,
        release=image.kernel_release,
        report=report,
        may_boot=may_boot,
    )
    check_memory(machine, memory_available_bytes())
    for port in machine.ports if may_boot else ():
        check_port(port)
    return plan_run(
        machine,
        image,
        HostFacts(
            qemu=qemu,
            accelerator=verdict,
            tsc_khz=tsc_khz(layout.cache) if verdict.accel == "tcg" else 0,
        ),
        layout,
        wait=request.wait,
        timeout_s=request.timeout_s,
        console_file=request.console_file,
        log_dir=request.log_dir,
        record=record,
        firmware=firmware,
        link=_plan_link(machine, layout, kvm=verdict.accel == "kvm"),
        tap_pools=tap_pools,
        shares=shares,
        disks=disks,
    )


def check_zone(timezone: str) -> None:
    """Refuse a time zone that this host does not know.

    :raise UsageError: it is not one.
    """
    if timezone not in ("host", "utc", "guest") and named_zone(timezone) is None:
        raise UsageError(
            f"this host has no time zone {timezone!r}",
            stage="time zone",
            fix="give host, utc, guest or a name below /usr/share/zoneinfo "
            "(apt-get install tzdata)",
        )


def check_port(port: PublishedPort) -> None:
    """Refuse a published port of the host that is taken, before there is a guest to wait for.

    :raise HostError: nobody could listen there now.
    """
    fault = find_port_fault(port.protocol, port.address, port.host_port)
    if fault is not None:
        holder = find_port_holder(port.protocol, port.host_port)
        raise HostError(
            f"port {port.host_port}/{port.protocol} of {port.address} cannot be published: {fault}",
            stage="ports",
            evidence=(f"{holder} has it",) if holder else (),
            fix="publish another port of the host, or stop what has this one",
        )


def _plan_link(machine: Machine, layout: Layout, *, kvm: bool) -> Link | None:
    kind = machine.network_kind
    if kind == "none":
        return None
    # The same name on another host is another machine, on the same bridge perhaps.
    mac = mac_address(host_identity(), layout.state_dir, machine.name)
    # Only KVM lets the kernel's thread interrupt the guest by itself.
    fast = kind != "user" and kvm and device_access("/dev/vhost-net") is None
    return Link(mac=mac, vhost=fast)


def check_memory(machine: Machine, available_bytes: int | None) -> None:
    """Refuse a guest that this host cannot hold.

    :raise OutOfMemory: it has less available than the guest may use.
    """
    needed = machine.memory_bytes + _OVERHEAD_BYTES
    if available_bytes is not None and needed > available_bytes:
        raise OutOfMemory(
            f"the host has {format_size(available_bytes)} of memory available; "
            f"a guest of {format_size(machine.memory_bytes)} needs {format_size(needed)}",
            stage="memory",
            fix="give a smaller --memory, or stop something",
        )


def _stored_image(machine: Machine, layout: Layout, report: Callable[[str], None]) -> Image:
    from innkeeper.images.boot import prepare_bundle
    from innkeeper.images.bundles import find_bundle

    if machine.kernel is not None:
        raise UsageError(
            f"the image {machine.image!r} brings its own kernel",
            stage="image",
            fix="leave out --kernel, or choose one of the image's with --flavour",
        )
    bundle, folder = find_bundle(layout.images, machine.image)
    return prepare_bundle(bundle, folder, layout.cache, report=report, flavour=machine.flavour)


def _extra_drivers(
    machine: Machine, fstypes: tuple[FsType, ...], *, stays: bool
) -> tuple[str, ...]:
    """What a machine needs of the tiny image beyond what all have."""
    whole_host = machine.root == "host"
    shared = SHARE_DRIVERS if machine.shares or whole_host or stays else ()
    return (*shared, *(("overlay",) if whole_host else ()), *fstypes)


def _choose_image(
    machine: Machine,
    layout: Layout,
    report: Callable[[str], None],
    *,
    stays: bool,
    fstypes: tuple[FsType, ...],
) -> Image:
    if machine.image == TINY:
        kernel = Path(machine.kernel).absolute() if machine.kernel else None
        drivers = _extra_drivers(machine, fstypes, stays=stays)
        image = prepare_tiny(layout.cache, report=report, kernel=kernel, drivers=drivers)
    else:
        image = _stored_image(machine, layout, report)
    if machine.initrd is None and fstypes:
        from innkeeper.images.disk_tools import add_disk_tools

        return add_disk_tools(image, layout.cache, fstypes, report=report)
    if machine.initrd is None:
        return image
    initrd = Path(machine.initrd).absolute()
    check_initrd(initrd)
    # What is in a foreign initramfs is its owner's business; ours may still be in it.
    return msgspec.structs.replace(image, initrd=str(initrd), initrd_bytes=initrd.stat().st_size)
