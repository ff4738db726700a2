# SPDX-License-Identifier: Apache-2.0
"""Small kernels, modules and packages, made here: what the image code reads, in kilobytes."""

from __future__ import annotations

import gzip
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from stand_ins import ROOT, Builder

from innkeeper.images.bundles import finish_bundle, place_bundle
from innkeeper.images.installing import export_bundle
from innkeeper.images.making import building
from innkeeper.model.bundle import Bundle, StoredKernel

RELEASE = "6.1.0-99-cloud-amd64"
PVH_NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100000)


def elf(
    sections: Mapping[str, bytes] | None = None, notes: bytes = b"", *, dynamic: bool = False
) -> bytes:
    """A 64-bit x86 ELF file with these sections, a PT_NOTE and, if wanted, a PT_INTERP."""
    segments = [(4, notes)] if notes else []
    if dynamic:
        segments.append((3, b"/lib64/ld-linux-x86-64.so.2\0"))
    names = b"\0"
    blobs = [(0, 0, b"")]
    for name, data in (sections or {}).items():
        blobs.append((len(names), 1, data))
        names += name.encode() + b"\0"
    blobs.append((len(names), 3, names + b".shstrtab\0"))
    body = bytearray(64 + 56 * len(segments) + 64 * len(blobs))
    section_start = 64 + 56 * len(segments)
    for index, (kind, data) in enumerate(segments):
        at = len(body)
        header = struct.pack("<IIQQQQQQ", kind, 4, at, 0, 0, len(data), len(data), 4)
        body[64 + 56 * index : 64 + 56 * (index + 1)] = header
        body += data
    for index, (name_at, kind, data) in enumerate(blobs):
        header = struct.pack("<IIQQQQIIQQ", name_at, kind, 0, 0, len(body), len(data), 0, 0, 1, 0)
        body[section_start + 64 * index : section_start + 64 * (index + 1)] = header
        body += data
    count = len(blobs)
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 62, 1, 0, 64, section_start, 0, 64, 56, len(segments), 64, count, count - 1),
    )
    return bytes(body)


def module(name: str, depends: str = "") -> bytes:
    """A kernel module that is nothing but its modinfo."""
    info = f"license=GPL\0depends={depends}\0name={name}\0vermagic={RELEASE} SMP\0"
    return elf({".text": b"\x90" * 16, ".modinfo": info.encode()})


def bzimage(vmlinux: bytes | None = None, release: str = RELEASE) -> bytes:
    """A bzImage with a kernel in it, compressed by gzip."""
    payload = gzip.compress(elf(notes=PVH_NOTE) if vmlinux is None else vmlinux, mtime=0)
    image = bytearray(2 * 512)
    image[0x1F1] = 1
    image[0x1FE:0x208] = b"\x55\xaa\xeb\x66HdrS\x0f\x02"
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    image[0x300 : 0x300 + len(release) + 11] = f"{release} (me@here) ".encode()
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload


MODULES: Mapping[str, bytes] = {
    "kernel/drivers/virtio/virtio.ko": module("virtio"),
    "kernel/drivers/virtio/virtio_mmio.ko": module("virtio_mmio", "virtio"),
    "kernel/net/vmw_vsock/vsock.ko": module("vsock"),
    "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko": module(
        "vmw_vsock_virtio_transport", "vsock,virtio"
    ),
    "kernel/drivers/char/hw_random/virtio-rng.ko": module("virtio_rng", "virtio"),
    "kernel/sound/unrelated.ko": module("unrelated"),
}
BUILTIN = "kernel/drivers/virtio/virtio_pci.ko\nkernel/net/core/failover.ko\n"


def modules_folder(folder: Path, modules: Mapping[str, bytes]) -> None:
    """Fill a /lib/modules/<release>."""
    for name, data in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "modules.builtin").write_text(BUILTIN)


def package(packages: Path, modules: Mapping[str, bytes] = MODULES) -> Path:
    """A Debian kernel package."""
    root = packages.parent / "package-root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: linux-image-{RELEASE}\nVersion: 6.1.99-1\nArchitecture: amd64\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: test\n"
    )
    (root / "boot").mkdir()
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(bzimage())
    modules_folder(root / "lib" / "modules" / RELEASE, modules)
    packages.mkdir(parents=True, exist_ok=True)
    path = packages / f"linux-image-{RELEASE}_6.1.99-1_amd64.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", str(root), str(path)],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def make_elf() -> Callable[..., bytes]:
    return elf


@pytest.fixture
def make_module() -> Callable[..., bytes]:
    return module


@pytest.fixture
def make_bzimage() -> Callable[..., bytes]:
    return bzimage


@pytest.fixture
def make_package() -> Callable[..., Path]:
    return package


@pytest.fixture
def make_modules_folder() -> Callable[..., None]:
    return modules_folder


@pytest.fixture
def pvh_note() -> bytes:
    return PVH_NOTE


@pytest.fixture
def kernel_release() -> str:
    return RELEASE


@pytest.fixture
def kernel_modules() -> dict[str, bytes]:
    return dict(MODULES)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the agent."""
    path = tmp_path / "agent"
    path.write_bytes(elf({".text": b"agent 1"}))
    monkeypatch.setenv("INN_AGENT", str(path))
    return path


@pytest.fixture
def cache(tmp_path: Path, agent: Path) -> Path:
    """A cache folder with a kernel package in it, and no image yet."""
    folder = tmp_path / "cache"
    package(folder / "packages")
    return folder


@pytest.fixture
def root_tree(tmp_path: Path) -> Path:
    """A root with a kernel, its modules, a shell, and what dpkg keeps."""
    root = tmp_path / "template"
    modules = root / "usr/lib/modules" / RELEASE
    for folder in (modules, root / "boot", root / "usr/bin", root / "var/lib/dpkg", root / "etc"):
        folder.mkdir(parents=True)
    for name in ("virtio_mmio", "virtio_blk", "erofs", "vmw_vsock_virtio_transport"):
        (modules / f"{name}.ko").write_bytes(module(name))
    (modules / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(bzimage())
    (root / "usr/bin/dash").write_bytes(elf())
    (root / "etc/hostname").write_text("the-host\n")
    (root / "var/lib/dpkg/status").write_text("Package: dash\nVersion: 1.2\nDescription: x\n y\n")
    return root


@pytest.fixture
def builder(tmp_path: Path, root_tree: Path) -> Builder:
    """`inn image` in a state folder of its own, with a stand-in for mmdebstrap."""
    return Builder(tmp_path, root_tree)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A bundle as `inn image export` writes it."""
    images = tmp_path / "made"
    with building(images) as folder:
        (folder / "vmlinuz").write_bytes(b"kernel" * 100)
        (folder / "root.erofs").write_bytes(ROOT)
        kernels = (StoredKernel(flavour="cloud", release="6.1.0", file="vmlinuz"),)
        bundle = Bundle(name="box", digest="", kernels=kernels, root="root.erofs", files=())
        bundle = finish_bundle(folder, bundle, ["vmlinuz", "root.erofs"])
        place_bundle(images, folder, bundle, force=False)
    export_bundle(images, "box", tmp_path / "served" / "box")
    return tmp_path / "served" / "box"
