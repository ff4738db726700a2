# SPDX-License-Identifier: Apache-2.0
"""Which accelerator works: decided by a short timed boot, remembered per host and kernel.

A /dev/kvm that opens proves nothing: on hosts with the PVM module
KVM_CREATE_VM succeeds and a stock kernel then crawls and dies. So a kernel is
booted under KVM to its "no root file system" panic, which takes less than a
second on working hardware.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from innkeeper.errors import HostError
from innkeeper.model.host import AcceleratorVerdict, QemuFacts
from innkeeper.model.machine import AcceleratorChoice
from innkeeper.system.files import write_atomic
from innkeeper.system.host import boot_identity, device_access
from innkeeper.system.process import run_tool

PROBE_LIMIT_S = 5.0
_KVM = "/dev/kvm"
_REACHED = b"Kernel panic - not syncing: VFS"


# Verdicts kept: one for each host boot, QEMU and kernel of late.
_REMEMBERED_LIMIT = 16


def choose_accelerator(
    choice: AcceleratorChoice,
    qemu: QemuFacts,
    kernel: str,
    cache_dir: Path,
    *,
    release: str,
    report: Callable[[str], None],
    may_boot: bool = True,
) -> AcceleratorVerdict:
    """The accelerator for this host, kernel and choice.

    :param release: the kernel's release, by which the verdict is remembered.
    :param may_boot: without it nothing is started, and an unknown host is
        taken to have no KVM.
    :raise HostError: KVM was asked for and cannot be opened.
    """
    if choice == "tcg":
        return AcceleratorVerdict(accel="tcg", reason="asked for")
    refusal = device_access(_KVM)
    if choice == "kvm":
        if refusal is not None:
            raise HostError(
                f"KVM was asked for, but {_KVM} cannot be opened: {refusal}",
                stage="accelerator",
                fix="use --accel tcg, or join the group kvm (`sudo adduser $USER kvm`)",
            )
        return AcceleratorVerdict(accel="kvm", reason="asked for")
    if refusal is not None:
        return AcceleratorVerdict(accel="tcg", reason=f"{_KVM}: {refusal}")
    identity = f"{boot_identity()} | {qemu.path} {qemu.version_text} | {release}"
    remembered = cache_dir / "accelerator.json"
    known = _recall(remembered)
    if identity in known:
        return known[identity]
    if not may_boot:
        return AcceleratorVerdict(accel="tcg", reason="KVM has not been tried yet on this host")
    report(f"trying KVM with a short boot (once per host, at most {PROBE_LIMIT_S:.0f} s)")
    verdict = probe_kvm(qemu, kernel)
    latest = list({**known, identity: verdict}.items())[-_REMEMBERED_LIMIT:]
    write_atomic(remembered, msgspec.json.encode(dict(latest)))
    report(f"accelerator: {verdict.accel} ({verdict.reason})")
    return verdict


def probe_kvm(qemu: QemuFacts, kernel: str) -> AcceleratorVerdict:
    """Boot `kernel` under KVM without a root file system and see whether it gets there."""
    started = time.monotonic()
    try:
        done = run_tool(
            plan_probe(qemu, kernel), stage="accelerator", timeout_s=PROBE_LIMIT_S, check=False
        )
    except HostError:
        return AcceleratorVerdict(
            accel="tcg",
            reason=f"{_KVM} opens, but a kernel did not boot under it within {PROBE_LIMIT_S:.0f} s",
            probe_s=PROBE_LIMIT_S,
        )
    took_s = round(time.monotonic() - started, 3)
    if _REACHED in done.stdout:
        return AcceleratorVerdict(
            accel="kvm", reason=f"a kernel booted under it in {took_s:.2f} s", probe_s=took_s
        )
    said = done.error_lines(1)
    return AcceleratorVerdict(
        accel="tcg",
        reason=f"{_KVM} opens, but QEMU cannot use it: {said[0] if said else 'no word why'}",
        probe_s=took_s,
    )


def plan_probe(qemu: QemuFacts, kernel: str) -> list[str]:
    """The argv of the timed boot. Pure."""
    machine = "microvm" if "microvm" in qemu.machines else "q35"
    return [
        qemu.path,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", machine, "-accel", "kvm", "-cpu", "host", "-m", "256M"),
        *("-serial", "stdio", "-kernel", kernel),
        *("-append", "console=ttyS0 panic=-1 reboot=t quiet"),
    ]


def _recall(remembered: Path) -> dict[str, AcceleratorVerdict]:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(remembered.read_bytes(), type=dict[str, AcceleratorVerdict])
    return {}
