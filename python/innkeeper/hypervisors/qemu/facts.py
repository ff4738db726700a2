# SPDX-License-Identifier: Apache-2.0
"""Which QEMU is installed and what it can do; asked once, then remembered.

QEMU takes 30 to 60 ms for each question, so the answers are cached with the
identity (path, size, time) of the binary.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from innkeeper.errors import HostTooOld
from innkeeper.model.host import QemuFacts
from innkeeper.system.process import require_program, run_tool
from innkeeper.system.remembered import program_identity, recall, remember

# Debian 12's release. vhost-user-vsock on virtio-mmio and inherited chardev
# descriptors are tested from there on.
MINIMUM_VERSION = (7, 2, 0)

_PROGRAM = "qemu-system-x86_64"
_DEVICES = (
    "vhost-user-vsock-device",
    "vhost-user-vsock-pci",
    "vhost-user-fs-device",
    "vhost-user-fs-pci",
    "vhost-vsock-pci",
    "virtio-net-device",
    "virtio-net-pci",
)
_MACHINES = ("microvm", "q35")
_TIMEOUT_S = 20.0


def find_qemu() -> str:
    """The path of QEMU: `INN_QEMU`, or the one in PATH.

    :raise MissingProgram: there is none.
    """
    wanted = os.environ.get("INN_QEMU") or _PROGRAM
    return require_program(
        wanted,
        stage="qemu",
        brief=f"QEMU ({wanted}) is not installed",
        fix="apt-get install qemu-system-x86, or name the program in INN_QEMU",
    )


def qemu_facts(cache_dir: Path) -> QemuFacts:
    """What the installed QEMU is, from the cache where the binary is the same.

    :raise MissingProgram: QEMU is not installed.
    :raise HostTooOld: it is older than :data:`MINIMUM_VERSION`.
    """
    path = find_qemu()
    identity = f"{program_identity(path)}:{','.join(_DEVICES + _MACHINES)}"
    remembered = cache_dir / "qemu.json"
    facts = recall(remembered, identity, QemuFacts)
    if facts is None:
        facts = _ask(path)
        remember(remembered, identity, facts)
    if facts.version < MINIMUM_VERSION:
        needed = ".".join(str(part) for part in MINIMUM_VERSION[:2])
        raise HostTooOld(
            f"QEMU {facts.version_text} is too old; {needed} or newer is needed",
            stage="qemu",
            evidence=(f"{path} says {facts.version_text}",),
            fix="install qemu-system-x86 of Debian 12 or newer, or name another in INN_QEMU",
        )
    return facts


def _ask(path: str) -> QemuFacts:
    version = parse_version(_output(path, "--version"))
    if version is None:
        raise HostTooOld(f"{path} does not say its version", stage="qemu", fix="check INN_QEMU")
    devices: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    if version >= MINIMUM_VERSION:
        listed = set(re.findall(r'^name "([^"]+)"', _output(path, "-device", "help"), re.MULTILINE))
        devices = tuple(name for name in _DEVICES if name in listed)
        kinds = set(re.findall(r"^(\S+)", _output(path, "-machine", "help"), re.MULTILINE))
        machines = tuple(name for name in _MACHINES if name in kinds)
    return QemuFacts(path=path, version=version, devices=devices, machines=machines)


def _output(path: str, *arguments: str) -> str:
    done = run_tool([path, *arguments], stage="qemu", timeout_s=_TIMEOUT_S)
    return done.stdout.decode("utf-8", "replace")


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The version in QEMU's `--version` output, or None."""
    match = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        return None
    return (int(match[1]), int(match[2]), int(match[3] or 0))
