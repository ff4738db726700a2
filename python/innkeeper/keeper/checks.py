# SPDX-License-Identifier: Apache-2.0
"""What this host can do: the checks of `inn doctor`, each with its reason and its fix.

A check never raises for what a host can be like; it says FAIL where `inn run`
would fail, and WARN where something that it does not need would.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from innkeeper.errors import InnError
from innkeeper.hypervisors.qemu.facts import MINIMUM_VERSION, qemu_facts
from innkeeper.hypervisors.qemu.firmware import find_firmware
from innkeeper.hypervisors.qemu.probe import choose_accelerator
from innkeeper.images.tiny import prepare_tiny
from innkeeper.model.host import QemuFacts
from innkeeper.model.idmap import subordinate_ranges
from innkeeper.model.image import Image
from innkeeper.model.machine import MEMORY_DEFAULT_BYTES
from innkeeper.model.sizes import GIB, format_size
from innkeeper.registry.layout import Layout
from innkeeper.shares.plan import check_device
from innkeeper.shares.servers import try_namespaces, virtiofsd_facts
from innkeeper.shares.users import host_ids, plan_users
from innkeeper.switchboard.native import find_native_fault
from innkeeper.system.host import (
    cpu_flags,
    device_access,
    disk_free_bytes,
    memory_available_bytes,
)
from innkeeper.system.network import may_configure_networks
from innkeeper.system.process import find_program
from innkeeper.system.sockets import SUN_PATH_MAX

Status = Literal["OK", "WARN", "FAIL"]
Report = Callable[[str], None]

# The longest machine name with the longest file name in its runtime folder.
_LONGEST_TAIL = len("/" + 40 * "n" + "/vsock.sock_4294967295")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    :ivar reason: what was found.
    :ivar fix: what to do, where something is wrong.
    """

    name: str
    status: Status
    reason: str
    fix: str = ""


def check_host(layout: Layout, *, report: Report) -> Iterator[Check]:
    """All checks, in the order in which a start meets them; each yielded when it is done.

    :param report: called with a line for each long step.
    """
    qemu = _found(lambda: qemu_facts(layout.cache))
    yield _check_qemu(qemu)
    image = _found(lambda: prepare_tiny(layout.cache, report=report))
    yield _check_image(image)
    yield _check_accelerator(qemu, image, layout, report)
    yield _check_vsock(qemu)
    yield _check_socket_paths(layout)
    yield check_memory(memory_available_bytes())
    yield check_disk(layout.cache, disk_free_bytes(layout.cache))
    yield _check_virtiofsd(qemu, layout)
    yield _check_uefi()
    yield _check_tun()
    yield check_subuid(Path("/etc/subuid"), getpass.getuser(), os.geteuid())


def _found(find: Callable[[], QemuFacts | Image]) -> QemuFacts | Image | InnError:
    try:
        return find()
    except InnError as error:
        return error


def _failed(name: str, error: InnError) -> Check:
    reason = ": ".join([error.brief, *error.evidence[-1:]])
    return Check(name=name, status="FAIL", reason=reason, fix=error.fix)


def _check_qemu(qemu: object) -> Check:
    if isinstance(qemu, InnError):
        return _failed("qemu", qemu)
    assert isinstance(qemu, QemuFacts)
    if not qemu.machines:
        needed = ".".join(str(part) for part in MINIMUM_VERSION[:2])
        return Check(
            name="qemu",
            status="FAIL",
            reason=f"QEMU {qemu.version_text} has neither microvm nor q35",
            fix=f"install qemu-system-x86 {needed} or newer",
        )
    kinds = ", ".join(qemu.machines)
    return Check(
        name="qemu", status="OK", reason=f"QEMU {qemu.version_text} at {qemu.path} ({kinds})"
    )


def _check_image(image: object) -> Check:
    if isinstance(image, InnError):
        return _failed("image", image)
    assert isinstance(image, Image)
    return Check(
        name="image",
        status="OK",
        reason=f"tiny: kernel {image.kernel_release}, initramfs {format_size(image.initrd_bytes)}",
    )


def _check_accelerator(qemu: object, image: object, layout: Layout, report: Report) -> Check:
    name = "accelerator"
    if not isinstance(qemu, QemuFacts) or not isinstance(image, Image):
        return Check(
            name=name, status="FAIL", reason="not tried without QEMU and an image", fix="see above"
        )
    verdict = choose_accelerator(
        "auto", qemu, image.kernel, layout.cache, release=image.kernel_release, report=report
    )
    if verdict.accel == "kvm":
        return Check(name=name, status="OK", reason=f"KVM: {verdict.reason}")
    virtual = {"vmx", "svm"} & cpu_flags()
    return Check(
        name=name,
        status="WARN",
        reason=f"no KVM ({verdict.reason}); guests run under TCG, some ten times slower",
        fix="join the group kvm (`sudo adduser $USER kvm`)"
        if virtual
        else "use a host whose CPU shows vmx or svm in /proc/cpuinfo (nested virtualisation on)",
    )


def _check_vsock(qemu: object) -> Check:
    kernel = device_access("/dev/vhost-vsock")
    beside = "also usable" if kernel is None else f"not needed ({kernel})"
    missing = find_native_fault()
    if missing is not None:
        return Check(
            name="vsock", status="FAIL", reason=f"innkeeper._core: {missing}", fix="make setup"
        )
    if isinstance(qemu, QemuFacts) and not any("vhost-user-vsock" in d for d in qemu.devices):
        return Check(
            name="vsock",
            status="FAIL",
            reason="this QEMU has no vhost-user-vsock device",
            fix="install Debian's qemu-system-x86",
        )
    return Check(name="vsock", status="OK", reason=f"own device; /dev/vhost-vsock is {beside}")


def _check_socket_paths(layout: Layout) -> Check:
    longest = len(os.fsencode(layout.runtime)) + _LONGEST_TAIL
    shown = f"sockets in {layout.runtime} have paths of up to {longest} bytes of {SUN_PATH_MAX}"
    if longest > SUN_PATH_MAX:
        return Check(
            name="socket paths",
            status="WARN",
            reason=shown,
            fix="set INN_RUNTIME_DIR to a shorter folder, or keep names short",
        )
    return Check(name="socket paths", status="OK", reason=shown)


def check_memory(available_bytes: int | None) -> Check:
    """Is there memory for a guest of the default size?"""
    if available_bytes is None:
        return Check(name="memory", status="WARN", reason="/proc/meminfo does not say")
    shown = f"{format_size(available_bytes)} available"
    if available_bytes < MEMORY_DEFAULT_BYTES * 5 // 4:
        return Check(
            name="memory",
            status="FAIL",
            reason=f"{shown}; a guest of the default size takes "
            f"{format_size(MEMORY_DEFAULT_BYTES)}",
            fix="stop something, or give a smaller --memory",
        )
    return Check(name="memory", status="OK", reason=shown)


def check_disk(folder: Path, free_bytes: int) -> Check:
    """Is there room for images?"""
    shown = f"{format_size(free_bytes)} free for {folder}"
    if free_bytes < GIB:
        return Check(
            name="disk",
            status="WARN",
            reason=shown,
            fix="free some space, or set INN_CACHE_DIR to a folder elsewhere",
        )
    return Check(name="disk", status="OK", reason=shown)


def _check_virtiofsd(qemu: object, layout: Layout) -> Check:
    name = "virtiofsd"
    if not isinstance(qemu, QemuFacts):
        return Check(name=name, status="WARN", reason="not tried without QEMU", fix="see above")
    try:
        facts = virtiofsd_facts(layout.cache)
        check_device(qemu)
        try_namespaces(plan_users((), host_ids()))
    except InnError as error:
        reason = ": ".join([error.brief, *error.evidence[-1:]])
        return Check(name=name, status="WARN", reason=f"{reason}; no virtiofs", fix=error.fix)
    return Check(name=name, status="OK", reason=f"{facts.path}: {facts.version}")


def _check_uefi() -> Check:
    try:
        firmware = find_firmware("uefi")
    except InnError as error:
        return Check(name="uefi", status="WARN", reason=error.brief, fix=error.fix)
    assert firmware is not None
    return Check(name="uefi", status="OK", reason=firmware.code.path)


def _check_tun() -> Check:
    refusal = device_access("/dev/net/tun")
    if refusal is not None:
        return Check(
            name="tun",
            status="WARN",
            reason=f"/dev/net/tun: {refusal}; only user-mode networks are possible",
            fix="run as root, or have the administrator grant /dev/net/tun",
        )
    if not may_configure_networks():
        return Check(
            name="tun",
            status="WARN",
            reason="no CAP_NET_ADMIN; only user-mode networks are possible",
            fix="run as root for --network tap and bridge",
        )
    missing = [tool for tool in ("ip", "nft", "dnsmasq") if find_program(tool) is None]
    if missing:
        return Check(
            name="tun",
            status="WARN",
            reason=f"{', '.join(missing)} not installed; --network tap is not possible",
            fix="apt-get install iproute2 nftables dnsmasq-base",
        )
    return Check(name="tun", status="OK", reason="--network tap and bridge are possible")


def check_subuid(file: Path, user: str, uid: int) -> Check:
    """Does an ordinary user have subordinate ids (subuid(5))? Root needs none."""
    if uid == 0:
        return Check(name="subuid", status="OK", reason="not needed by root")
    try:
        table = file.read_text("utf-8", "replace")
    except OSError as exc:
        table = ""
        reason = f"{file}: {exc.strerror}"
    else:
        reason = f"{file} has no range for {user}"
    ranges = subordinate_ranges(table, user, uid)
    if ranges and find_program("newuidmap") is None:
        return Check(
            name="subuid",
            status="WARN",
            reason=f"newuidmap is not installed; without it {user}'s ids are of no use",
            fix="sudo apt-get install uidmap",
        )
    for first, count in ranges:
        return Check(name="subuid", status="OK", reason=f"{count} ids from {first}")
    return Check(
        name="subuid",
        status="WARN",
        reason=f"{reason}; without one only the guest's root can create files in shares, and only root build images",
        fix=f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
    )
