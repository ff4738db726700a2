# SPDX-License-Identifier: Apache-2.0
"""Images made of what is there already: each form, each refusal."""

from __future__ import annotations

import json
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from innkeeper.errors import HostError, ImageError, UsageError
from innkeeper.images.bundles import bundle_names, verify_bundle
from innkeeper.images.importing import Import, import_image
from innkeeper.images.phases import Phases
from innkeeper.images.roots import make_root
from innkeeper.images.sources import kind_of
from innkeeper.model.bundle import Bundle
from innkeeper.model.image import ROOT_ALIGNMENT_BYTES
from innkeeper.model.recipe import RootFormat

Make = Callable[..., bytes]
RELEASE = "6.1.0-10-cloud-amd64"
UUID = "12345678-1234-5678-9abc-123456789abc"
DRIVERS = ("virtio_mmio", "virtio_blk", "erofs", "squashfs", "ext4", "vmw_vsock_virtio_transport")


@pytest.fixture
def tree(tmp_path: Path, make_module: Make, make_bzimage: Make, make_elf: Make) -> Path:
    """A root with a kernel, a shell and an init."""
    root = tmp_path / "tree"
    modules = root / "usr/lib/modules" / RELEASE
    for folder in (modules, root / "boot", root / "usr/bin", root / "usr/sbin"):
        folder.mkdir(parents=True)
    for name in DRIVERS:
        (modules / f"{name}.ko").write_bytes(make_module(name))
    (modules / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(make_bzimage(release=RELEASE))
    (root / "usr/bin/dash").write_bytes(make_elf())
    (root / "usr/sbin/init").write_bytes(make_elf())
    (root / "lib").symlink_to("usr/lib")
    (root / "bin").symlink_to("usr/bin")
    return root


def bring(images: Path, root: Path, **options: object) -> Bundle:
    wanted = Import(root=root, packages=images / "packages", **options)  # type: ignore[arg-type]
    phases = Phases(lambda _line: None)
    bundle, _ = import_image(images, "mine", wanted, phases=phases, force=True)
    assert verify_bundle(images, "mine") == []
    assert sorted(path.name for path in images.iterdir()) == ["mine"]
    return bundle


def raw(tree: Path, kind: RootFormat) -> Path:
    out = tree.parent / f"disk.{kind}"
    make_root(kind, tree, out, fs_uuid=UUID, epoch=1686355200)
    return out


def test_a_folder_with_its_own_kernel(tmp_path: Path, tree: Path) -> None:
    bundle = bring(tmp_path / "images", tree)
    assert (bundle.root, bundle.root_type, bundle.init) == ("root.erofs", "erofs", "/sbin/init")
    (kernel,) = bundle.kernels
    assert (kernel.flavour, kernel.release) == ("cloud", RELEASE)
    assert "erofs" in kernel.modules


def test_an_archive_lands_inside(tmp_path: Path, tree: Path, make_elf: Make) -> None:
    archive = tmp_path / "root.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, ".")
        link = tarfile.TarInfo("./out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        for name in ("../escaped", "/escaped", "./out/escaped"):
            tar.addfile(tarfile.TarInfo(name))
        device = tarfile.TarInfo("./dev/null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(device)
    try:
        bring(tmp_path / "images", archive)
    except ImageError:
        # GNU tar refuses some of these; what counts is where nothing is.
        assert bundle_names(tmp_path / "images") == ()
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "images" / "escaped").exists()
    assert not Path("/escaped").exists()


@pytest.mark.parametrize("kind", ["erofs", "squashfs", "ext4"])
def test_a_raw_file_system_with_its_own_kernel(
    tmp_path: Path, tree: Path, kind: RootFormat
) -> None:
    bundle = bring(tmp_path / "images", raw(tree, kind))
    assert (bundle.root, bundle.root_type) == (f"root.{kind}", kind)
    assert bundle.init == "/sbin/init"
    assert [kernel.release for kernel in bundle.kernels] == [RELEASE]
    assert kind in bundle.kernels[0].modules


def partitioned(tmp_path: Path, tree: Path) -> Path:
    """A disk with a GPT of one partition."""
    content = raw(tree, "ext4").read_bytes()
    disk = tmp_path / "disk.raw"
    sectors = len(content) // 512
    header = bytearray(512)
    header[:8] = b"EFI PART"
    struct.pack_into("<II", header, 80, 128, 128)
    entry = bytearray(128)
    entry[:16] = bytes(range(16))
    struct.pack_into("<QQ", entry, 32, 2048, 2048 + sectors - 1)
    table = bytes(entry) + bytes(127 * 128)
    start = bytearray(512)
    start[510:512] = b"\x55\xaa"
    whole = bytes(start) + bytes(header) + table
    disk.write_bytes(whole + bytes(2048 * 512 - len(whole)) + content)
    return disk


def test_the_root_partition_of_a_disk_and_of_a_qcow2(tmp_path: Path, tree: Path) -> None:
    disk = partitioned(tmp_path, tree)
    qcow2 = tmp_path / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(qcow2)], check=True
    )
    one = bring(tmp_path / "images", disk)
    other = bring(tmp_path / "images", qcow2)
    assert one.root_type == "ext4"
    assert one.digest == other.digest


def test_a_qcow2_that_would_read_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    qcow2 = tmp_path / "disk.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "secret", str(qcow2)]
    subprocess.run(argv, check=True)
    with pytest.raises(ImageError, match="not complete in itself"):
        bring(tmp_path / "images", qcow2)


def test_three_files(tmp_path: Path, tree: Path, make_bzimage: Make) -> None:
    bundle_folder = tmp_path / "three"
    bundle_folder.mkdir()
    raw(tree, "ext4").rename(bundle_folder / "vm_rootfs.img")
    (bundle_folder / "vm_kernel").write_bytes(make_bzimage(release=RELEASE))
    with pytest.raises(ImageError, match=r"has no vm_tools\.img$"):
        bring(tmp_path / "images", bundle_folder)
    raw(tree, "squashfs").rename(bundle_folder / "vm_tools.img")
    bundle = bring(tmp_path / "images", bundle_folder)
    assert (bundle.root, bundle.tools) == ("root.ext4", "tools.squashfs")
    assert (bundle.tools_type, bundle.tools_at) == ("squashfs", "/opt/google/cros-containers")
    # Its modules are those in the root; its root fills whole pieces of persistent memory.
    names = ["modules.cpio", "root.ext4", "tools.squashfs", "vmlinuz"]
    assert [file.name for file in bundle.files] == names
    assert bundle.files[1].size_bytes % ROOT_ALIGNMENT_BYTES == 0
    assert "virtio_pmem" in bundle.kernels[0].lacks
    for place in ("opt", "/opt/../etc", '/a" init=/x', "/a b", "/", ""):
        with pytest.raises(UsageError, match="no place for the tools"):
            bring(tmp_path / "images", bundle_folder, tools_at=place)
    (bundle_folder / "vm_kernel").unlink()
    (bundle_folder / "vm_rootfs.img").unlink()
    with pytest.raises(ImageError, match=r"no vm_kernel and no vm_rootfs\.img"):
        bring(tmp_path / "images", bundle_folder)


def test_a_root_for_another_machine_is_refused(tmp_path: Path, tree: Path) -> None:
    shell = bytearray((tree / "usr/bin/dash").read_bytes())
    struct.pack_into("<H", shell, 18, 183)
    (tree / "usr/bin/dash").write_bytes(shell)
    for root in (tree, raw(tree, "ext4")):
        with pytest.raises(ImageError, match="is for aarch64, not for x86_64"):
            bring(tmp_path / "images", root)
    assert bundle_names(tmp_path / "images") == ()


def test_a_kernel_that_is_none_is_refused(tmp_path: Path, tree: Path) -> None:
    (tree / "boot" / f"vmlinuz-{RELEASE}").write_bytes(b"MZ" + bytes(100_000))
    with pytest.raises(ImageError, match="not a kernel for x86-64"):
        bring(tmp_path / "images", tree)


def test_a_root_without_a_kernel_wants_one(tmp_path: Path, tree: Path, make_bzimage: Make) -> None:
    (tree / "boot" / f"vmlinuz-{RELEASE}").unlink()
    with pytest.raises(ImageError, match="no kernel in /boot") as failure:
        bring(tmp_path / "images", tree)
    assert "--kernel" in failure.value.fix
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(make_bzimage(release="6.9.1"))
    assert bring(tmp_path / "images", tree, kernel=str(kernel)).kernels[0].flavour == "default"


def test_debians_kernel_from_its_package(
    tmp_path: Path, tree: Path, make_package: Callable[..., Path], make_module: Make
) -> None:
    images = tmp_path / "images"
    modules = {f"kernel/{name}.ko": make_module(name) for name in DRIVERS}
    make_package(tmp_path / "packages", modules)
    wanted = Import(root=tree, packages=tmp_path / "packages", kernel="debian")
    bundle, _ = import_image(images, "mine", wanted, phases=Phases(lambda _l: None), force=False)
    assert bundle.kernels[0].release == "6.1.0-99-cloud-amd64"
    assert "erofs" in bundle.kernels[0].modules


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", bytes(100_000)])
def test_what_no_image_can_be_made_of(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="no file system, disk or archive"):
        kind_of(path)
    with pytest.raises(ImageError, match="there is no file"):
        kind_of(tmp_path / "nothing")


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "root.tar.gz"
    path.write_bytes(b"\x1f\x8b" + bytes(5000))
    with pytest.raises(ImageError, match="cannot be unpacked"):
        bring(tmp_path / "images", path)
    assert list((tmp_path / "images").iterdir()) == []


def test_a_manifest_tells_no_path_of_the_host(tmp_path: Path, tree: Path) -> None:
    bring(tmp_path / "images", tree)
    text = (tmp_path / "images/mine/bundle.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["recipe"] == {"imported_from": "tree", "kind": "folder"}


def test_btrfs_wants_a_kernel(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    data = bytearray(0x20000)
    data[0x10040:0x10048] = b"_BHRfS_M"
    path.write_bytes(data)
    with pytest.raises(HostError, match="cannot look into btrfs"):
        bring(tmp_path / "images", path)
