# SPDX-License-Identifier: Apache-2.0
"""From a machine to QEMU's argv and the kernel command line. Pure: values in, values out.

Descriptors that QEMU inherits are named, not numbered: an argument holds
`<fd:console>` until :func:`render_argv` puts the number in. A plan can so be
printed and compared before anything exists.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from innkeeper.errors import UsageError
from innkeeper.hypervisors.qemu.balloon import balloon_option
from innkeeper.hypervisors.qemu.disks import (
    Disk,
    disk_device,
    disk_options,
    disk_words,
    plan_disks,
    root_modules,
    root_words,
)
from innkeeper.hypervisors.qemu.firmware import firmware_options, oem_options
from innkeeper.hypervisors.qemu.host_root import host_root_modules, host_root_words
from innkeeper.hypervisors.qemu.network import (
    netdev_options,
    network_descriptors,
    network_device,
)
from innkeeper.hypervisors.qemu.pmem import Pmem, memory_size, plan_pmem, pmem_options
from innkeeper.hypervisors.qemu.shares import (
    has_share_device,
    share_descriptors,
    share_device,
    share_modules,
    share_options,
    share_words,
)
from innkeeper.model.disk import AttachedDisk
from innkeeper.model.firmware import GuestFirmware
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Accelerator, Machine
from innkeeper.model.network import Link
from innkeeper.model.share import SharePlan
from innkeeper.model.sizes import MIB

# Inherited descriptors, in the order in which they are created.
DESCRIPTORS = ("qmp", "console", "vsock")

# TCG runs the string instructions that ERMS and FSRM recommend byte by byte:
# without the two flags the guest's kernel copies 2 to 6 times faster.
_CPUS: dict[Accelerator, str] = {"kvm": "host", "tcg": "max,erms=off,fsrm=off"}

# COMMAND_LINE_SIZE of the kernel's arch/x86, with its terminating zero.
_CMDLINE_MAXIMUM_BYTES = 2047

# Modules of the guest that its devices need, in load order.
_TRANSPORT_MODULES = {"virtio-mmio": "virtio_mmio", "virtio-pci": "virtio_pci"}


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the guest: what it is for, and its `-device` value.

    :ivar module: the guest kernel module that drives it.
    """

    purpose: str
    option: str
    module: str


class QemuPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly what will be started.

    :ivar argv: QEMU's arguments with `<fd:NAME>` for inherited descriptors.
    :ivar cmdline: the guest's kernel command line.
    :ivar machine_reason: why this type of machine.
    :ivar descriptors: names of the inherited descriptors.
    """

    argv: tuple[str, ...]
    cmdline: str
    accel: Accelerator
    machine_type: str
    machine_reason: str
    transport: str
    memory_bytes: int
    devices: tuple[Device, ...]
    descriptors: tuple[str, ...]


def plan_qemu(
    machine: Machine,
    image: Image,
    facts: HostFacts,
    *,
    layer: str | None = None,
    attached: tuple[AttachedDisk, ...] = (),
    firmware: GuestFirmware | None = None,
    link: Link | None = None,
    shares: SharePlan | None = None,
) -> QemuPlan:
    """The plan for one start of `machine` from `image` on this host.

    :param layer: the file that keeps what the guest writes over its root.
    :param attached: the machine's own disks.
    :param firmware: UEFI firmware with the guest's own variables.
    :param link: the network card's own values.
    :param shares: how folders of the host are served.
    """
    accel = facts.accelerator.accel
    machine_type, machine_reason = choose_machine_type(machine, facts)
    transport = "virtio-mmio" if machine_type == "microvm" else "virtio-pci"
    pmem = plan_pmem(machine, image)
    disks = plan_disks(machine, image, layer=layer, attached=attached)
    devices = _plan_devices(machine, disks, transport, link, pmem=pmem, shares=shares)
    places = (*disk_words(attached, image), *share_words(shares, image))
    places = (*host_root_words(machine, shares), *places)
    modules = (*(device.module for device in devices), *share_modules(shares))
    modules = (*modules, *host_root_modules(machine, image))
    cmdline = _plan_cmdline(machine, image, facts, transport, modules, places=places)
    argv = (
        facts.qemu.path,
        *_name_options(machine),
        *_machine_options(machine, machine_type, accel, memory_size(machine.memory_bytes, pmem)),
        *pmem_options(pmem),
        *_channel_options(),
        *netdev_options(machine, link),
        *share_options(shares),
        *(part for disk in disks for part in disk_options(disk)),
        *(part for device in devices for part in ("-device", device.option)),
        *firmware_options(firmware),
        *oem_options(machine),
        "-kernel",
        # UEFI starts a kernel by its EFI stub, which the bare ELF file has not.
        image.kernel if firmware is None else image.kernel_source,
        "-initrd",
        image.initrd,
        "-append",
        cmdline,
        *machine.qemu_args,
    )
    return QemuPlan(
        argv=argv,
        cmdline=cmdline,
        accel=accel,
        machine_type=machine_type,
        machine_reason=machine_reason,
        transport=transport,
        memory_bytes=machine.memory_bytes,
        devices=devices,
        descriptors=(
            *DESCRIPTORS,
            *network_descriptors(machine, link),
            *share_descriptors(shares),
        ),
    )


def choose_machine_type(machine: Machine, facts: HostFacts) -> tuple[str, str]:
    """QEMU's machine type for a machine, and why: the quickest that has what it needs."""
    needs = []
    if machine.firmware != "default":
        needs.append("UEFI firmware")
    if machine.oem_strings:
        needs.append("OEM strings")
    if machine.root_device == "pmem":
        needs.append("persistent memory")
    if needs:
        return "q35", f"microvm has no {' and no '.join(needs)}"
    if "microvm" not in facts.qemu.machines:
        return "q35", "this QEMU has no microvm"
    return "microvm", "the quickest to boot"


def render_argv(plan: QemuPlan, numbers: Mapping[str, int]) -> list[str]:
    """The argv with the descriptor numbers put in.

    :raise KeyError: a descriptor of the plan has no number.
    """
    argv = list(plan.argv)
    for name in plan.descriptors:
        argv = [arg.replace(f"<fd:{name}>", str(numbers[name])) for arg in argv]
    return argv


def _name_options(machine: Machine) -> tuple[str, ...]:
    return (
        "-name",
        f"guest={quote(machine.name)},debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        # A panic reboots the guest (panic=-1), which then ends QEMU.
        "-no-reboot",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    )


def _machine_options(
    machine: Machine, machine_type: str, accel: Accelerator, memory: str
) -> tuple[str, ...]:
    options = {
        # pit and pic off: the local APIC timer serves, and each device less is
        # a probe less for the kernel. rtc on: the wall clock at boot.
        "microvm": "microvm,pit=off,pic=off,rtc=on,pcie=off,usb=off,memory-backend=mem",
        "q35": "q35,smm=off,vmport=off,usb=off,memory-backend=mem",
    }[machine_type]
    size_mib = machine.memory_bytes // MIB
    return (
        "-machine",
        options,
        "-accel",
        accel,
        "-cpu",
        _CPUS[accel],
        "-smp",
        str(machine.cpus),
        "-m",
        memory,
        # The modern interface (virtio 1.x); QEMU's default on this bus is the legacy one.
        *(("-global", "virtio-mmio.force-legacy=false") if machine_type == "microvm" else ()),
        # vhost-user maps guest memory through the memfd; share=on makes it one memory.
        "-object",
        f"memory-backend-memfd,id=mem,size={size_mib}M,share=on",
    )


def _channel_options() -> tuple[str, ...]:
    return (
        "-chardev",
        "socket,id=qmp,fd=<fd:qmp>",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        "socket,id=console,fd=<fd:console>",
        "-serial",
        "chardev:console",
        "-chardev",
        "socket,id=vsock,fd=<fd:vsock>",
    )


def _plan_devices(
    machine: Machine,
    disks: tuple[Disk, ...],
    transport: str,
    link: Link | None,
    *,
    pmem: Pmem | None,
    shares: SharePlan | None,
) -> tuple[Device, ...]:
    suffix = "device" if transport == "virtio-mmio" else "pci"
    devices = [
        Device(
            purpose="vsock",
            option=f"vhost-user-vsock-{suffix},chardev=vsock",
            module="vmw_vsock_virtio_transport",
        ),
        # 10 ms of a boot under TCG.
        Device(purpose="memory", option=balloon_option(suffix), module="virtio_balloon"),
    ]
    if machine.network != "none":
        devices.append(
            Device(
                purpose="network",
                option=network_device(link, suffix),
                module="virtio_net",
            )
        )
    if pmem is not None:
        # On PCI alone: `choose_machine_type` sees to it.
        devices.append(
            Device(purpose="root", option="virtio-pmem-pci,memdev=pmem", module="virtio_pmem")
        )
    devices += [
        Device(purpose=f"disk {disk.serial}", option=disk_device(disk, suffix), module="virtio_blk")
        for disk in disks
    ]
    if has_share_device(shares):
        devices.append(Device(purpose="shares", option=share_device(suffix), module="virtiofs"))
    return tuple(devices)


def _plan_cmdline(
    machine: Machine,
    image: Image,
    facts: HostFacts,
    transport: str,
    modules: tuple[str, ...],
    *,
    places: tuple[str, ...],
) -> str:
    # reboot=t: a triple fault is the one reset that microvm without ACPI
    # power management always understands.
    # cryptomgr.notests: the self-tests of algorithms take 0.2 s of a boot under TCG.
    words = ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "cryptomgr.notests"]
    if facts.accelerator.accel == "tcg":
        # Patching the lock prefixes away makes TCG translate the kernel anew (0.2 s).
        words.append("noreplace-smp")
        if facts.tsc_khz:
            # Without it 1 of 4 microvm boots under TCG hangs in TSC calibration.
            # On a busy host the guest loses timer ticks; the kernel would then blame the TSC,
            # which is the host's, and tell the time by those ticks, in steps of 4 ms.
            words += [f"tsc_early_khz={facts.tsc_khz}", "tsc=nowatchdog"]
    if image.agent:
        needed = (
            _TRANSPORT_MODULES[transport],
            *modules,
            *(("efivarfs",) if machine.firmware != "default" else ()),
            *root_modules(machine, image),
        )
        wanted = list(dict.fromkeys(name for name in needed if name in image.modules))
        words.append(f"inn.hostname={machine.name}")
        if wanted:
            words.append(f"inn.modules={','.join(wanted)}")
        words += root_words(machine, image)
        words += places
    cmdline = " ".join([*words, *machine.append])
    if len(cmdline.encode()) > _CMDLINE_MAXIMUM_BYTES:
        raise UsageError(
            f"the kernel command line has {len(cmdline.encode())} bytes; "
            f"the guest's kernel takes {_CMDLINE_MAXIMUM_BYTES}",
            stage="plan",
            fix="give fewer disks and shares, shorter paths, or fewer --append",
        )
    return cmdline


def quote(value: str) -> str:
    """A value inside a QEMU option list: a comma is written twice."""
    return value.replace(",", ",,")
