# SPDX-License-Identifier: Apache-2.0
"""A root in persistent memory and a tools file system, by value."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import ImageError, UsageError
from innkeeper.hypervisors.qemu.plan import plan_qemu
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image, Root, Tools
from innkeeper.model.machine import Machine
from innkeeper.model.sizes import MIB


@pytest.fixture
def rooted(image: Image) -> Image:
    """An image with an erofs root of 6 MiB."""
    return msgspec.structs.replace(
        image,
        name="debian",
        modules=(*image.modules, "virtio_pci", "virtio_pmem", "nd_pmem", "virtio_blk", "erofs"),
        root=Root(path="/images/a,b/root.erofs", fstype="erofs", size_bytes=6 * MIB),
    )


@pytest.fixture
def wanting(machine: Machine) -> Machine:
    """A machine that wants its root in memory."""
    return msgspec.structs.replace(machine, root_device="pmem")


def test_the_root_is_memory_that_qemu_only_reads(
    wanting: Machine, rooted: Image, host: HostFacts
) -> None:
    plan = plan_qemu(wanting, rooted, host)
    assert (plan.machine_type, plan.machine_reason) == ("q35", "microvm has no persistent memory")
    # Its place is at a whole GiB, above the guest's own memory.
    assert plan.argv[plan.argv.index("-m") + 1] == "512M,maxmem=2560M"
    assert (
        "memory-backend-file,id=pmem,share=on,readonly=on,size=6291456,"
        "mem-path=/images/a,,b/root.erofs"
    ) in plan.argv
    assert "virtio-pmem-pci,memdev=pmem" in plan.argv
    assert "-blockdev" not in plan.argv
    assert "inn.modules=virtio_pci,vmw_vsock_virtio_transport,virtio_pmem,nd_pmem," in plan.cmdline
    assert (
        "inn.root=device:/dev/pmem0 root=/dev/pmem0 inn.rootflags=dax "
        "inn.rootfstype=erofs ro inn.overlay=temp"
    ) in plan.cmdline


def test_squashfs_is_not_mapped(wanting: Machine, rooted: Image, host: HostFacts) -> None:
    assert rooted.root is not None
    root = msgspec.structs.replace(rooted.root, fstype="squashfs")
    plan = plan_qemu(wanting, msgspec.structs.replace(rooted, root=root), host)
    assert "rootflags" not in plan.cmdline


def test_tools_are_a_disk_beside_the_root(machine: Machine, rooted: Image, host: HostFacts) -> None:
    tools = Tools(path="/images/a,b/tools.squashfs", fstype="squashfs", mount_point="/opt/x")
    image = msgspec.structs.replace(rooted, tools=tools, modules=(*rooted.modules, "squashfs"))
    plan = plan_qemu(machine, image, host)
    assert "virtio-blk-device,drive=disk-inn-tools,serial=inn-tools" in plan.argv
    assert any(
        arg.startswith("driver=raw,node-name=disk-inn-tools,read-only=on,") for arg in plan.argv
    )
    assert 'inn.tools="inn-tools:/opt/x:squashfs"' in plan.cmdline
    assert "virtio_blk,erofs,squashfs" in plan.cmdline


@pytest.mark.parametrize("driver", ["virtio_pmem", "nd_pmem"])
def test_a_kernel_without_the_driver_is_refused(
    driver: str, wanting: Machine, rooted: Image, host: HostFacts
) -> None:
    image = msgspec.structs.replace(rooted, lacks=(driver,))
    with pytest.raises(ImageError, match=f"has no driver {driver}") as caught:
        plan_qemu(wanting, image, host)
    assert "--root-device blk" in caught.value.fix
    plan_qemu(msgspec.structs.replace(wanting, root_device="blk"), image, host)


def test_what_cannot_be_memory_is_refused(
    wanting: Machine, image: Image, rooted: Image, host: HostFacts
) -> None:
    with pytest.raises(UsageError, match="has no root to put in persistent memory"):
        plan_qemu(wanting, image, host)
    assert rooted.root is not None
    odd = msgspec.structs.replace(rooted.root, size_bytes=6 * MIB + 4096)
    with pytest.raises(UsageError, match="whole pieces of 2M") as caught:
        plan_qemu(wanting, msgspec.structs.replace(rooted, root=odd), host)
    assert caught.value.evidence == ("it has 6295552 bytes",)
