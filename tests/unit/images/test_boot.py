# SPDX-License-Identifier: Apache-2.0
"""What is made of a bundle at a start, and when it is made anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import ImageError, UnknownName
from innkeeper.images.boot import choose_kernel, prepare_bundle
from innkeeper.images.cpio import Archive
from innkeeper.model.bundle import Bundle, StoredFile, StoredKernel

ROOT_SHA256 = hashlib.sha256(bytes(4096)).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, make_bzimage: Callable[..., bytes]) -> Path:
    """A bundle's files; what is in the root is the guest's business."""
    folder = tmp_path / "images" / "deb"
    folder.mkdir(parents=True)
    (folder / "vmlinuz").write_bytes(make_bzimage())
    archive = Archive()
    archive.file("lib/modules/6.1.0-99-cloud-amd64/modules.dep", b"")
    (folder / "modules.cpio").write_bytes(archive.to_bytes())
    (folder / "root.erofs").write_bytes(bytes(4096))
    return folder


@pytest.fixture
def bundle() -> Bundle:
    cloud = StoredKernel(
        flavour="cloud",
        release="6.1.0-99-cloud-amd64",
        file="vmlinuz",
        modules_file="modules.cpio",
        modules=("virtio_blk", "erofs"),
    )
    plain = StoredKernel(flavour="plain", release="6.1.0-99-amd64", file="vmlinuz")
    return Bundle(
        name="deb",
        digest="d" * 64,
        kernels=(cloud, plain),
        root="root.erofs",
        init="/sbin/init",
        files=(StoredFile(name="root.erofs", size_bytes=4096, sha256=ROOT_SHA256),),
    )


def ignore(_line: str) -> None:
    """Nobody watches."""


def test_the_kernel_is_expanded_and_the_agent_added(
    tmp_path: Path, agent: Path, bundle: Bundle, folder: Path
) -> None:
    image = prepare_bundle(bundle, folder, tmp_path / "cache", report=ignore)
    assert image.root is not None
    assert image.root.path == str(folder / "root.erofs")
    assert image.root.init == "/sbin/init"
    assert image.modules == ("virtio_blk", "erofs")
    assert Path(image.kernel).read_bytes()[:4] == b"\x7fELF"
    initrd = Path(image.initrd).read_bytes()
    modules = (folder / "modules.cpio").read_bytes()
    assert initrd.startswith(modules)
    assert agent.read_bytes() in initrd[len(modules) :]


def test_it_is_made_once_and_again_for_another_agent(
    tmp_path: Path, agent: Path, bundle: Bundle, folder: Path
) -> None:
    cache = tmp_path / "cache"
    lines: list[str] = []
    first = prepare_bundle(bundle, folder, cache, report=lines.append)
    assert lines
    lines.clear()
    assert prepare_bundle(bundle, folder, cache, report=lines.append) == first
    assert lines == []
    agent.write_bytes(agent.read_bytes() + b"newer")
    assert prepare_bundle(bundle, folder, cache, report=ignore).digest != first.digest


def test_each_flavour_is_an_image_of_its_own(
    tmp_path: Path, agent: Path, bundle: Bundle, folder: Path
) -> None:
    cache = tmp_path / "cache"
    cloud = prepare_bundle(bundle, folder, cache, report=ignore)
    plain = prepare_bundle(bundle, folder, cache, report=ignore, flavour="plain")
    assert plain.digest != cloud.digest
    assert plain.modules == ()
    with pytest.raises(UnknownName, match="clout") as caught:
        choose_kernel(bundle, "clout")
    assert "cloud" in caught.value.fix


def test_a_missing_file_is_named(tmp_path: Path, agent: Path, bundle: Bundle, folder: Path) -> None:
    (folder / "modules.cpio").unlink()
    with pytest.raises(ImageError, match=r"modules\.cpio") as caught:
        prepare_bundle(bundle, folder, tmp_path / "cache", report=ignore)
    assert "inn image verify deb" in caught.value.fix


def test_a_flipped_byte_is_refused_by_file_name(
    tmp_path: Path, agent: Path, bundle: Bundle, folder: Path
) -> None:
    root = folder / "root.erofs"
    cache = tmp_path / "cache"
    prepare_bundle(bundle, folder, cache, report=ignore)
    # Its size and its time are as they were.
    info = root.stat()
    with root.open("r+b") as file:
        file.seek(2000)
        file.write(b"\1")
    os.utime(root, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(ImageError, match=r"root\.erofs is damaged") as caught:
        prepare_bundle(bundle, folder, cache, report=ignore)
    assert "the manifest says" in caught.value.evidence[1]
    assert "--force" in caught.value.fix


def test_a_bundle_for_another_machine_is_refused(
    tmp_path: Path, agent: Path, bundle: Bundle, folder: Path
) -> None:
    other = msgspec.structs.replace(bundle, arch="aarch64")
    with pytest.raises(ImageError, match="deb is for aarch64, and guests are x86_64"):
        prepare_bundle(other, folder, tmp_path / "cache", report=ignore)


def test_a_bundle_without_a_root_is_a_kernel_alone(
    tmp_path: Path, agent: Path, bundle: Bundle, folder: Path
) -> None:
    bare = msgspec.structs.replace(bundle, root="")
    assert prepare_bundle(bare, folder, tmp_path / "cache", report=ignore).root is None
