# SPDX-License-Identifier: Apache-2.0
"""Kernels of a root: found with their modules, stored by flavour, refused by driver."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from innkeeper.errors import ImageError
from innkeeper.images.stored_kernels import find_kernels, flavour_of, store_kernels

Make = Callable[..., bytes]
DRIVERS = ("virtio_mmio", "virtio_blk", "erofs", "vmw_vsock_virtio_transport")


@pytest.fixture
def tree(tmp_path: Path, make_module: Make, make_bzimage: Make) -> Path:
    for release in ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "6.1.0-10-amd64"):
        modules = tmp_path / "tree/usr/lib/modules" / release
        modules.mkdir(parents=True)
        for name in DRIVERS:
            (modules / f"{name}.ko").write_bytes(make_module(name))
        (modules / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
        boot = tmp_path / "tree/boot"
        boot.mkdir(exist_ok=True)
        (boot / f"vmlinuz-{release}").write_bytes(make_bzimage(release=release))
    return tmp_path / "tree"


def test_the_newest_of_each_flavour_is_stored(tree: Path, tmp_path: Path) -> None:
    found = find_kernels(tree)
    assert found[-1].path.name == "vmlinuz-6.1.0-9-cloud-amd64"
    stored = store_kernels(found, tmp_path, root_type="erofs")
    assert sorted(kernel.flavour for kernel in stored) == ["amd64", "cloud"]
    assert {kernel.release for kernel in stored} == {"6.1.0-10-cloud-amd64", "6.1.0-10-amd64"}
    assert (stored[0].file, stored[0].modules_file) == ("vmlinuz", "modules.cpio")
    assert stored[1].file == f"vmlinuz-{stored[1].flavour}"
    names = subprocess.run(
        ["cpio", "-t", "--quiet"],
        input=(tmp_path / "modules.cpio").read_bytes(),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert f"lib/modules/{stored[0].release}/modules.dep" in names
    assert f"lib/modules/{stored[0].release}/erofs.ko" in names


@pytest.mark.parametrize("driver", ["virtio_blk", "erofs", "vmw_vsock_virtio_transport"])
def test_a_kernel_without_a_driver_is_refused_by_its_name(
    tree: Path, tmp_path: Path, driver: str
) -> None:
    for path in tree.rglob(f"{driver}.ko"):
        path.unlink()
    with pytest.raises(ImageError, match=driver):
        store_kernels(find_kernels(tree), tmp_path, root_type="erofs")


def test_flavours_of_releases() -> None:
    assert flavour_of("6.1.0-10-cloud-amd64") == "cloud"
    assert flavour_of("6.12.117+deb13-amd64") == "amd64"
    assert flavour_of("6.1.0-10-rt-amd64") == "rt"
    assert flavour_of("6.9.1") == "default"
