# SPDX-License-Identifier: Apache-2.0
"""The plan by value: what QEMU is told is compared, not run."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.hypervisors.qemu.facts import parse_version
from innkeeper.hypervisors.qemu.plan import QemuPlan, plan_qemu, quote, render_argv
from innkeeper.hypervisors.qemu.probe import plan_probe
from innkeeper.model.host import AcceleratorVerdict, HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine

KVM = AcceleratorVerdict(accel="kvm", reason="a kernel booted under it")


def option(plan: QemuPlan, name: str) -> list[str]:
    """All values of an option."""
    return [plan.argv[i + 1] for i, arg in enumerate(plan.argv) if arg == name]


def test_the_plan_of_the_default_machine(machine: Machine, image: Image, host: HostFacts) -> None:
    plan = plan_qemu(machine, image, host)
    assert plan.argv == (
        "/usr/bin/qemu-system-x86_64",
        "-name",
        "guest=box,debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine",
        "microvm,pit=off,pic=off,rtc=on,pcie=off,usb=off,memory-backend=mem",
        "-accel",
        "tcg",
        "-cpu",
        "max,erms=off,fsrm=off",
        "-smp",
        "1",
        "-m",
        "512M",
        "-global",
        "virtio-mmio.force-legacy=false",
        "-object",
        "memory-backend-memfd,id=mem,size=512M,share=on",
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
        "-device",
        "vhost-user-vsock-device,chardev=vsock",
        "-device",
        "virtio-balloon-device,id=balloon,deflate-on-oom=on,free-page-reporting=on",
        "-kernel",
        "/images/tiny/kernel",
        "-initrd",
        "/images/tiny/initrd",
        "-append",
        plan.cmdline,
    )
    assert plan.cmdline == (
        "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests noreplace-smp "
        "tsc_early_khz=2000000 tsc=nowatchdog "
        "inn.hostname=box inn.modules=virtio_mmio,vmw_vsock_virtio_transport"
    )


def test_descriptors_get_their_numbers(machine: Machine, image: Image, host: HostFacts) -> None:
    plan = plan_qemu(machine, image, host)
    argv = render_argv(plan, {"qmp": 7, "console": 8, "vsock": 9})
    assert "socket,id=qmp,fd=7" in argv
    assert "socket,id=vsock,fd=9" in argv
    assert not any("<fd:" in arg for arg in argv)
    with pytest.raises(KeyError):
        render_argv(plan, {"qmp": 7})


def test_kvm_uses_the_host_cpu_and_its_own_clock(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    plan = plan_qemu(machine, image, msgspec.structs.replace(host, accelerator=KVM))
    assert option(plan, "-accel") == ["kvm"]
    assert option(plan, "-cpu") == ["host"]
    assert "tsc_early_khz" not in plan.cmdline
    assert "noreplace-smp" not in plan.cmdline


def test_without_microvm_devices_are_on_pci(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    qemu = msgspec.structs.replace(host.qemu, machines=("q35",))
    plan = plan_qemu(machine, image, msgspec.structs.replace(host, qemu=qemu))
    assert option(plan, "-machine") == ["q35,smm=off,vmport=off,usb=off,memory-backend=mem"]
    assert option(plan, "-device") == [
        "vhost-user-vsock-pci,chardev=vsock",
        "virtio-balloon-pci,id=balloon,deflate-on-oom=on,free-page-reporting=on",
    ]
    assert "inn.modules=virtio_pci,vmw_vsock_virtio_transport" in plan.cmdline


def test_a_network_is_a_device_more_and_only_then(image: Image, host: HostFacts) -> None:
    plan = plan_qemu(Machine(name="box", network="user"), image, host)
    assert option(plan, "-netdev") == ["user,id=net0"]
    assert "virtio-net-device,netdev=net0" in option(plan, "-device")
    assert plan.cmdline.endswith("vmw_vsock_virtio_transport,virtio_net")
    assert not option(plan_qemu(Machine(name="box"), image, host), "-netdev")


def test_drivers_that_are_built_in_are_not_loaded(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    bare = msgspec.structs.replace(image, modules=("vmw_vsock_virtio_transport",))
    assert "inn.modules=vmw_vsock_virtio_transport" in plan_qemu(machine, bare, host).cmdline
    foreign = msgspec.structs.replace(image, agent=False)
    assert "inn." not in plan_qemu(machine, foreign, host).cmdline


def test_the_users_words_come_last(image: Image, host: HostFacts) -> None:
    plan = plan_qemu(Machine(name="box", append=("loglevel=7", "x=y")), image, host)
    assert plan.cmdline.endswith(" loglevel=7 x=y")


def test_commas_in_option_values_are_doubled() -> None:
    assert quote("a,b=c") == "a,,b=c"


def test_the_probe_needs_no_root_file_system(host: HostFacts) -> None:
    argv = plan_probe(host.qemu, "/boot/vmlinuz")
    assert argv[argv.index("-accel") + 1] == "kvm"
    assert "-initrd" not in argv
    assert "panic=-1" in argv[argv.index("-append") + 1]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", (7, 2, 22)),
        ("QEMU emulator version 10.0", (10, 0, 0)),
        ("something else", None),
    ],
)
def test_versions(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version
