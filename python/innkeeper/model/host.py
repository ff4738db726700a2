# SPDX-License-Identifier: Apache-2.0
"""What was found out about this host, as values."""

from __future__ import annotations

import msgspec

from innkeeper.model.machine import Accelerator


class QemuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An installed QEMU.

    :ivar version: major, minor, micro.
    :ivar devices: names that `-device help` lists, of those we may use.
    :ivar machines: names that `-machine help` lists, of those we may use.
    """

    path: str
    version: tuple[int, int, int]
    devices: tuple[str, ...]
    machines: tuple[str, ...]

    @property
    def version_text(self) -> str:
        """The version as "7.2.22"."""
        return ".".join(str(part) for part in self.version)


class AcceleratorVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Which accelerator works here, and how that is known.

    :ivar reason: a sentence for people, such as why KVM is not used.
    :ivar probe_s: length of the timed boot; None where none was needed.
    """

    accel: Accelerator
    reason: str
    probe_s: float | None = None


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a plan depends on and that is not the user's choice.

    :ivar tsc_khz: frequency of the time-stamp counter, 0 where unknown.
    """

    qemu: QemuFacts
    accelerator: AcceleratorVerdict
    tsc_khz: int
