# SPDX-License-Identifier: Apache-2.0
"""The tiny image: what is in it, when it is built again, and what can be missing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from innkeeper.errors import ImageError, MissingProgram
from innkeeper.images import tiny
from innkeeper.images.package import find_package
from innkeeper.images.tiny import prepare_tiny
from innkeeper.model.image import Image


class Lines(list[str]):
    """Collects what is reported."""

    def prepare(self, cache: Path, kernel: Path | None = None) -> Image:
        self.clear()
        return prepare_tiny(cache, report=self.append, kernel=kernel)


@pytest.fixture
def lines() -> Lines:
    return Lines()


def members(initrd: str) -> list[str]:
    data = Path(initrd).read_bytes()
    done = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True)
    return done.stdout.decode().split()


def member(initrd: str, name: str) -> bytes:
    argv = ["cpio", "-i", "--quiet", "--to-stdout", name]
    data = Path(initrd).read_bytes()
    return subprocess.run(argv, input=data, capture_output=True, check=True).stdout


def test_the_image_of_a_package(
    cache: Path, lines: Lines, agent: Path, kernel_release: str
) -> None:
    image = lines.prepare(cache)
    assert image.kernel_release == kernel_release
    assert image.agent
    assert image.modules == (
        *("virtio", "virtio_mmio", "vsock", "vmw_vsock_virtio_transport", "virtio_rng"),
    )
    assert Path(image.kernel).read_bytes().startswith(b"\x7fELF")
    assert Path(image.kernel_source).name == "vmlinuz"
    assert Path(image.initrd).stat().st_size == image.initrd_bytes
    names = members(image.initrd)
    folder = f"lib/modules/{kernel_release}"
    assert {"init", "bin/busybox", "bin/sh", "etc/passwd", "dev/console", "tmp"} <= set(names)
    assert f"{folder}/kernel/drivers/char/hw_random/virtio-rng.ko" in names
    assert not [name for name in names if "unrelated" in name]
    assert b"virtio-rng.ko: kernel/drivers/virtio/virtio.ko\n" in member(
        image.initrd, f"{folder}/modules.dep"
    )
    assert member(image.initrd, "init") == agent.read_bytes()
    assert any("unpacking linux-image" in line for line in lines)


def test_the_second_time_it_is_there(cache: Path, lines: Lines) -> None:
    first = lines.prepare(cache)
    assert lines.prepare(cache) == first
    assert not lines


def test_a_rebuild_gives_the_same_bytes(cache: Path, lines: Lines) -> None:
    initrd = Path(lines.prepare(cache).initrd)
    before = initrd.read_bytes()
    initrd.unlink()
    assert Path(lines.prepare(cache).initrd).read_bytes() == before
    assert lines


def test_a_changed_agent_gives_another_image(
    cache: Path, lines: Lines, agent: Path, make_elf: Callable[..., bytes]
) -> None:
    first = lines.prepare(cache)
    agent.write_bytes(make_elf({".text": b"agent 2"}))
    second = lines.prepare(cache)
    assert second.digest != first.digest
    assert member(second.initrd, "init") == agent.read_bytes()


def test_a_moved_cache_still_works(cache: Path, lines: Lines) -> None:
    lines.prepare(cache)
    moved = cache.rename(cache.with_name("moved"))
    image = lines.prepare(moved)
    assert image.initrd.startswith(str(moved))
    assert not lines


def test_the_newest_package_counts(tmp_path: Path) -> None:
    for version in ("6.1.0-9-cloud-amd64_6.1.27-1", "6.1.0-56-cloud-amd64_6.1.192-2"):
        (tmp_path / f"linux-image-{version}_amd64.deb").touch()
    (tmp_path / "linux-image-6.9.0-1-amd64_6.9-1_amd64.deb").touch()
    found = find_package(tmp_path)
    assert found is not None
    assert "6.1.0-56" in found.name


def test_a_damaged_package(cache: Path, lines: Lines) -> None:
    (path,) = (cache / "packages").glob("*.deb")
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ImageError, match="cannot be unpacked") as caught:
        lines.prepare(cache)
    assert f"rm {path}" in caught.value.fix
    assert not list((cache / "images").glob("tiny-*"))
    assert not list((cache / "images").glob(".build-*"))


def test_without_dpkg(cache: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingProgram, match="dpkg-deb is not installed"):
        lines.prepare(cache)


@pytest.mark.parametrize("missing", ["vmw_vsock_virtio_transport", "vsock"])
def test_a_missing_driver_is_named(
    *,
    missing: str,
    tmp_path: Path,
    agent: Path,
    lines: Lines,
    make_package: Callable[..., Path],
    kernel_modules: Mapping[str, bytes],
) -> None:
    modules = {name: data for name, data in kernel_modules.items() if f"/{missing}.ko" not in name}
    make_package(tmp_path / "cache" / "packages", modules)
    with pytest.raises(ImageError, match=missing):
        lines.prepare(tmp_path / "cache")


def test_without_an_agent(cache: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_AGENT", "/nonexistent/agent")
    with pytest.raises(ImageError, match="no agent at /nonexistent/agent") as caught:
        lines.prepare(cache)
    assert "make setup" in caught.value.fix


def test_a_dynamic_agent(
    cache: Path, lines: Lines, agent: Path, make_elf: Callable[..., bytes]
) -> None:
    agent.write_bytes(make_elf(dynamic=True))
    with pytest.raises(ImageError, match="not statically linked"):
        lines.prepare(cache)


def test_without_busybox(cache: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "BUSYBOX", Path("/nonexistent/busybox"))
    with pytest.raises(ImageError, match="no busybox") as caught:
        lines.prepare(cache)
    assert caught.value.fix == "apt-get install busybox-static"


def test_without_package_and_network(
    tmp_path: Path, agent: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in (
        ("apt-cache", "echo '  Depends: linux-image-6.1.0-1-cloud-amd64'"),
        ("apt-get", "echo 'E: no route to host' >&2; exit 100"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    with pytest.raises(ImageError, match="cannot be downloaded") as caught:
        lines.prepare(tmp_path / "cache")
    assert "E: no route to host" in caught.value.evidence
    assert "make setup" in caught.value.fix
    assert lines == ["downloading linux-image-6.1.0-1-cloud-amd64"]
    assert not list((tmp_path / "cache" / "packages").iterdir())


@pytest.fixture
def own_kernel(
    tmp_path: Path, agent: Path, make_bzimage: Callable[..., bytes], kernel_release: str
) -> Path:
    """A kernel file of the user's, as in /boot."""
    path = tmp_path / "root" / "boot" / f"vmlinuz-{kernel_release}"
    path.parent.mkdir(parents=True)
    path.write_bytes(make_bzimage())
    return path


def test_a_kernel_of_the_users(
    *,
    own_kernel: Path,
    tmp_path: Path,
    lines: Lines,
    make_modules_folder: Callable[..., None],
    make_module: Callable[..., bytes],
    kernel_modules: Mapping[str, bytes],
    kernel_release: str,
) -> None:
    cache = tmp_path / "cache"
    without = lines.prepare(cache, own_kernel)
    assert without.modules == ()
    assert without.kernel_source == str(own_kernel)
    assert any("no modules found" in line for line in lines)

    folder = tmp_path / "root" / "lib" / "modules" / kernel_release
    make_modules_folder(folder, kernel_modules)
    image = lines.prepare(cache, own_kernel)
    assert "virtio_mmio" in image.modules
    assert lines.prepare(cache, own_kernel) == image
    assert not lines

    (folder / "kernel/drivers/virtio/virtio_mmio.ko").write_bytes(
        make_module("virtio_mmio", "virtio,vsock")
    )
    assert lines.prepare(cache, own_kernel).digest != image.digest


def test_an_elf_kernel_of_the_users_is_used_where_it_is(
    tmp_path: Path, agent: Path, lines: Lines, make_elf: Callable[..., bytes], pvh_note: bytes
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(make_elf(notes=pvh_note) + b"Linux version 9.9.9 (me) ")
    image = lines.prepare(tmp_path / "cache", path)
    assert image.kernel == image.kernel_source == str(path)
    assert image.kernel_release == "9.9.9"
    path.unlink()
    with pytest.raises(ImageError, match="there is no kernel file"):
        lines.prepare(tmp_path / "cache", path)


def test_a_kernel_that_cannot_be_taken_out_boots_as_it_is(
    own_kernel: Path,
    tmp_path: Path,
    lines: Lines,
    make_bzimage: Callable[..., bytes],
    make_elf: Callable[..., bytes],
) -> None:
    own_kernel.write_bytes(make_bzimage(make_elf()))
    image = lines.prepare(tmp_path / "cache", own_kernel)
    assert image.kernel == str(own_kernel)
    assert any("expand itself" in line and "PVH" in line for line in lines)
