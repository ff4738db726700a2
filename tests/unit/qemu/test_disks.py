# SPDX-License-Identifier: Apache-2.0
"""Disks and the words by which the agent finds the root, by value."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import UsageError
from innkeeper.hypervisors.qemu.disks import SERIAL_MAXIMUM, Disk, plan_disks, root_words
from innkeeper.hypervisors.qemu.plan import plan_qemu
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
