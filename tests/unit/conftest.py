# SPDX-License-Identifier: Apache-2.0
"""Values that many unit tests start from: no guest, no QEMU, no file is behind them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from innkeeper.model.host import AcceleratorVerdict, HostFacts, QemuFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine


@pytest.fixture
def image() -> Image:
    return Image(
        name="tiny",
        digest="0" * 64,
        kernel="/images/tiny/kernel",
        kernel_source="/images/tiny/vmlinuz",
        initrd="/images/tiny/initrd",
        kernel_release="6.1.0-1-cloud-amd64",
        agent=True,
        modules=("virtio_mmio", "virtio_pci", "vmw_vsock_virtio_transport", "virtio_net"),
        initrd_bytes=4 << 20,
        kernel_bytes=50 << 20,
    )


@pytest.fixture
def host() -> HostFacts:
    return HostFacts(
        qemu=QemuFacts(
            path="/usr/bin/qemu-system-x86_64",
            version=(7, 2, 22),
            devices=("vhost-user-vsock-device", "vhost-user-vsock-pci"),
            machines=("microvm", "q35"),
        ),
        accelerator=AcceleratorVerdict(accel="tcg", reason="asked for"),
        tsc_khz=2_000_000,
    )


@pytest.fixture
def machine() -> Machine:
    return Machine(name="box")


@pytest.fixture(scope="session")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that breaks a process at its nth write (props/breaking.py)."""
    path = tmp_path_factory.mktemp("preload") / "die_at_call.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    source = Path(__file__).parent / "props" / "die_at_call.c"
    subprocess.run(["gcc", *flags, "-o", str(path), str(source), "-ldl"], check=True)
    return path
