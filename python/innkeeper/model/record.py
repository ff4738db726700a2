# SPDX-License-Identifier: Apache-2.0
"""What is recorded of a machine's life: the file that `inn ls` and `inn inspect` read."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from innkeeper.model.disk import DiskState
from innkeeper.model.network import GuestNetwork
from innkeeper.model.share import ShareReport

State = Literal["created", "starting", "running", "paused", "stopping", "stopped", "failed"]

# States in which a keeper lives; without one they are no longer true.
LIVE_STATES: tuple[State, ...] = ("starting", "running", "paused", "stopping")

Rung = Literal["agent", "power-button", "terminate", "kill"]
"""What ended the guest: its agent, the power button, SIGTERM or SIGKILL to QEMU."""


RECORD_VERSION = 1


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The last known of a machine's life.

    :ivar changed_at: when the state was entered, seconds since the epoch.
    :ivar reason: why it is in this state, for people.
    :ivar error: `InnError.as_dict()` of the last failure.
    :ivar stages: the stages of the last start with their seconds, in order.
    :ivar guest: measurements of the guest's own side of it, in seconds.
    :ivar rung: what ended the guest the last time.
    :ivar memory_bytes: the memory that a live guest has now, as it says itself.
    :ivar revision: counts the writes; of two files the one with more is true.
    :ivar network: of a running guest.
    :ivar forwards: ports of the guest with those of the host that lead there by themselves;
        only true in a runtime folder's record.
    :ivar disks: the disks of the last start; how full they are is only true in a runtime
        folder's record.
    :ivar shares: of a running guest that has some, or may get some.
    :ivar starts: how often it was started; `restarts`, how often by its policy.
    """

    version: int = RECORD_VERSION
    revision: int = 0
    name: str
    state: State
    changed_at: float
    reason: str = ""
    error: dict[str, Any] | None = None
    stages: dict[str, float] = {}
    guest: dict[str, float] = {}
    rung: Rung | None = None
    keeper_pid: int | None = None
    qemu_pid: int | None = None
    guest_cid: int | None = None
    memory_bytes: int | None = None
    network: GuestNetwork | None = None
    forwards: dict[int, int] = {}
    disks: tuple[DiskState, ...] = ()
    shares: ShareReport | None = None
    starts: int = 0
    restarts: int = 0


def true_record(record: Record, *, keeper_lives: bool) -> Record:
    """The record as it must be read: a live state without a keeper is a failure."""
    if keeper_lives or record.state not in LIVE_STATES:
        return record
    error = {
        "kind": "KeeperLost",
        "brief": f"the keeper of {record.name!r} died",
        "stage": record.state,
        "evidence": [f"the last that keeper {record.keeper_pid} recorded is {record.state!r}"],
        "fix": f"`inn start {record.name}`",
        "exit_code": 125,
    }
    return msgspec.structs.replace(
        record,
        state="failed",
        reason="its keeper died",
        error=error,
        keeper_pid=None,
        qemu_pid=None,
        memory_bytes=None,
    )
