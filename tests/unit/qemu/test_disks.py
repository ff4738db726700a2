# SPDX-License-Identifier: Apache-2.0
"""Disks and the words by which the agent finds the root, by value."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import UsageError
from innkeeper.hypervisors.qemu.disks import (
    SERIAL_MAXIMUM,
    Disk,
    disk_options,
    plan_disks,
    root_words,
)
from innkeeper.hypervisors.qemu.plan import plan_qemu
from innkeeper.model.disk import AttachedDisk
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image, Root
from innkeeper.model.machine import Machine


@pytest.fixture
def rooted(image: Image) -> Image:
    """An image with a systemd root."""
    return msgspec.structs.replace(
        image,
        name="debian",
        modules=(*image.modules, "virtio_blk", "erofs", "overlay"),
        root=Root(path="/images/a,b/root.erofs", fstype="erofs", init="/sbin/init"),
    )


def test_an_image_without_a_root_has_no_disk(machine: Machine, image: Image) -> None:
    assert plan_disks(machine, image) == ()
    assert root_words(machine, image) == ()


def test_the_root_is_read_only_whatever_lies_over_it(machine: Machine, rooted: Image) -> None:
    for overlay in ("temp", "keep", "none"):
        changed = msgspec.structs.replace(machine, root_overlay=overlay)
        root, *layers = plan_disks(changed, rooted, layer="/m/box/layer.img")
        assert root == Disk(serial="inn-root", path="/images/a,b/root.erofs", read_only=True)
        assert [layer.read_only for layer in layers] == ([False] if overlay == "keep" else [])


def test_a_guest_that_nobody_keeps_has_no_layer_to_keep(machine: Machine, rooted: Image) -> None:
    with pytest.raises(UsageError, match="needs a machine that stays") as caught:
        plan_disks(msgspec.structs.replace(machine, root_overlay="keep"), rooted)
    assert "--root-overlay temp" in caught.value.fix


def test_qemu_and_the_kernel_get_the_root(machine: Machine, rooted: Image, host: HostFacts) -> None:
    plan = plan_qemu(machine, rooted, host)
    at = plan.argv.index("-blockdev")
    assert plan.argv[at + 1] == (
        "driver=raw,node-name=disk-inn-root,read-only=on,discard=unmap,"
        "file.driver=file,file.filename=/images/a,,b/root.erofs"
    )
    assert "virtio-blk-device,drive=disk-inn-root,serial=inn-root" in plan.argv
    assert (
        "inn.modules=virtio_mmio,vmw_vsock_virtio_transport,virtio_blk,erofs,overlay "
        "inn.root=disk:inn-root inn.rootfstype=erofs ro inn.overlay=temp "
        "inn.init=/sbin/init systemd.hostname=box"
    ) in plan.cmdline


def test_a_kept_layer_and_the_agent_as_init(machine: Machine, rooted: Image) -> None:
    assert rooted.root is not None
    agent = msgspec.structs.replace(rooted, root=msgspec.structs.replace(rooted.root, init="agent"))
    kept = msgspec.structs.replace(machine, root_overlay="keep")
    assert root_words(kept, agent) == (
        *("inn.root=disk:inn-root", "inn.rootfstype=erofs", "ro"),
        "inn.overlay=keep:inn-layer",
    )


def test_serials_fit() -> None:
    from innkeeper.hypervisors.qemu import disks

    assert max(len(disks.ROOT_SERIAL), len(disks.LAYER_SERIAL)) <= SERIAL_MAXIMUM


def attached(**changes: object) -> AttachedDisk:
    base = AttachedDisk(
        name="data", serial="0123", file="/d/a,b/disk.img", path="/mnt/a b", fstype="ext4"
    )
    return msgspec.structs.replace(base, **changes)


def test_disks_of_a_machine_on_each_bus(machine: Machine, image: Image, host: HostFacts) -> None:
    disks = (attached(), attached(serial="4567", path="/b", fstype="btrfs", read_only=True))
    plan = plan_qemu(machine, image, host, attached=disks)
    assert "virtio-blk-device,drive=disk-0123,serial=0123" in plan.argv
    assert 'inn.disk="0123:/mnt/a b:ext4" inn.disk="4567:/b:btrfs"' in plan.cmdline
    q35 = plan_qemu(
        msgspec.structs.replace(machine, oem_strings=("x",)), image, host, attached=disks
    )
    assert "virtio-blk-pci,drive=disk-4567,serial=4567" in q35.argv


@pytest.mark.parametrize("keeps", [False, True])
def test_the_format_of_a_disk_is_told(image: Image, keeps: bool) -> None:
    discard = "ignore" if keeps else "unmap"
    raw, qcow2 = plan_disks(
        Machine(name="box"),
        image,
        attached=(
            attached(keeps_blocks=keeps),
            attached(file_format="qcow2", keeps_blocks=keeps, read_only=True),
        ),
    )
    assert disk_options(raw)[1] == (
        f"driver=raw,node-name=disk-0123,read-only=off,discard={discard},"
        f"file.driver=file,file.filename=/d/a,,b/disk.img{',file.discard=ignore' * keeps}"
    )
    assert msgspec.json.decode(disk_options(qcow2)[1]) == {
        "driver": "qcow2",
        "node-name": "disk-0123",
        "read-only": True,
        "discard": discard,
        "backing": None,
        "file": {"driver": "file", "filename": "/d/a,b/disk.img"},
    }


def test_a_command_line_that_the_kernel_would_cut_is_refused(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    disks = tuple(attached(serial=f"{n}", path=f"/{n}{'x' * 240}") for n in range(10))
    with pytest.raises(UsageError, match="kernel command line"):
        plan_qemu(machine, image, host, attached=disks)
