# SPDX-License-Identifier: Apache-2.0
"""The choice of an accelerator: what is tried, what is remembered. QEMU is a script here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import HostError
from innkeeper.hypervisors.qemu import probe
from innkeeper.hypervisors.qemu.probe import choose_accelerator
from innkeeper.model.host import AcceleratorVerdict, QemuFacts


def fake_qemu(folder: Path, output: str) -> QemuFacts:
    """A "QEMU" that counts its starts and says `output`."""
    program = folder / "qemu"
    program.write_text(f"#!/bin/sh\necho x >> {folder}/starts\n{output}\n")
    program.chmod(0o755)
    return QemuFacts(path=str(program), version=(7, 2, 0), devices=(), machines=("microvm",))


@pytest.fixture
def usable_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "device_access", lambda _path: None)


def choose(qemu: QemuFacts, kernel: str, cache: Path, choice: str = "auto") -> AcceleratorVerdict:
    return choose_accelerator(
        choice,  # type: ignore[arg-type]  # one of three words
        qemu,
        kernel,
        cache,
        release=kernel,
        report=lambda _line: None,
    )


def test_a_kernel_that_reaches_its_panic_proves_kvm(tmp_path: Path, usable_kvm: None) -> None:
    qemu = fake_qemu(tmp_path, "echo 'Kernel panic - not syncing: VFS: Unable to mount'")
    assert choose(qemu, "/k", tmp_path).accel == "kvm"


def test_a_device_that_opens_proves_nothing(tmp_path: Path, usable_kvm: None) -> None:
    qemu = fake_qemu(tmp_path, "echo 'emulation failure' >&2; exit 1")
    verdict = choose(qemu, "/k", tmp_path)
    assert verdict.accel == "tcg"
    assert "emulation failure" in verdict.reason


def test_a_kernel_that_crawls_is_given_up(
    tmp_path: Path, usable_kvm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_LIMIT_S", 0.2)
    assert choose(fake_qemu(tmp_path, "exec sleep 60"), "/k", tmp_path).accel == "tcg"


def test_each_kernel_is_tried_once(tmp_path: Path, usable_kvm: None) -> None:
    qemu = fake_qemu(tmp_path, "exit 1")
    for kernel in ("/a", "/b", "/a", "/b"):
        choose(qemu, kernel, tmp_path)
    assert (tmp_path / "starts").read_text().count("x") == 2
    (tmp_path / "accelerator.json").write_text("{")
    choose(qemu, "/a", tmp_path)
    assert (tmp_path / "starts").read_text().count("x") == 3


def test_without_a_device_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "device_access", lambda _path: "No such file or directory")
    qemu = fake_qemu(tmp_path, "exit 1")
    assert choose(qemu, "/k", tmp_path).accel == "tcg"
    with pytest.raises(HostError, match="KVM was asked for"):
        choose(qemu, "/k", tmp_path, "kvm")
    assert not (tmp_path / "starts").exists()


def test_verdicts_are_remembered_for_a_bounded_number_of_kernels(
    tmp_path: Path, usable_kvm: None
) -> None:
    qemu = fake_qemu(tmp_path, "exit 1")
    for number in range(20):
        choose(qemu, f"/{number}", tmp_path)
    known = msgspec.json.decode((tmp_path / "accelerator.json").read_bytes())
    assert len(known) == 16
