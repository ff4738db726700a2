# SPDX-License-Identifier: Apache-2.0
"""What the keeper and others say to each other: JSON lines on Unix streams.

::

    starter ──RunPlan──────────────────────────> keeper      (socket pair)
    starter <─StageDone*─ StateChanged* ─Ready│Failed──
    starter ──Detach (the guest stays) │ Stop │ closes──>
    starter <─Ended────────────────────────────

    anybody ──Stop │ Pause │ Resume │ SetMemory │ HoldStill │ Watch │ Attach──> keeper.sock
    anybody ──AddShare │ RemoveShare │ RemountShares │ ResizeDisk │ ApplyPolicy──> keeper.sock
    anybody <─Done │ Refused │ MemoryChanged │ DiskPlace │ ShareRemoved │ StateChanged*──
    anybody <─Done, then the console's bytes as they are, both ways── (after Attach)
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from innkeeper.model.disk import SpaceState
from innkeeper.model.record import State
from innkeeper.model.share import Share

Reason = Literal["stopped", "powered-off", "rebooted", "failed"]


class StageDone(msgspec.Struct, frozen=True, tag_field="event", tag="stage"):
    """A stage of the start is over."""

    name: str
    seconds: float


class StateChanged(msgspec.Struct, frozen=True, tag_field="event", tag="state"):
    """The guest entered a state; or, with `disk`, that disk of it did.

    :ivar at: seconds since the epoch.
    :ivar disk: the name of a disk.
    :ivar space: how full that is now.
    """

    name: str
    state: State
    at: float
    reason: str = ""
    disk: str = ""
    space: SpaceState | None = None


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """The guest fulfils what was waited for.

    :ivar guest: measurements of the guest's own side, in seconds.
    :ivar warnings: what the agent could not do so far.
    """

    name: str
    guest: dict[str, float]
    warnings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """The guest is lost, before or after it was ready. `error` is `InnError.as_dict()`."""

    error: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, tag_field="event", tag="ended"):
    """Everything is torn down; the last message.

    :ivar reason: "stopped" when asked to, "powered-off" or "rebooted" when the
        guest did, "failed" after a `Failed`.
    """

    reason: Reason
    keeper_peak_kib: int = 0


class Done(msgspec.Struct, frozen=True, tag_field="event", tag="done"):
    """An operation succeeded."""


class Refused(msgspec.Struct, frozen=True, tag_field="event", tag="refused"):
    """An operation failed. `error` is `InnError.as_dict()`."""

    error: dict[str, Any]


class MemoryChanged(msgspec.Struct, frozen=True, tag_field="event", tag="memory"):
    """The guest's memory is as it was asked for."""

    memory_bytes: int


class DiskPlace(msgspec.Struct, frozen=True, tag_field="event", tag="disk"):
    """The guest has the disk, at this folder."""

    path: str


class ShareRemoved(msgspec.Struct, frozen=True, tag_field="event", tag="share-removed"):
    """A share is gone from the guest.

    :ivar held: the guest's kernel still holds files of it, and with them its way to others.
    """

    held: bool


class Stop(msgspec.Struct, frozen=True, tag_field="op", tag="stop"):
    """End the guest: answered when everything is torn down.

    :ivar timeout_s: the agent's time; 0 kills at once.
    """

    timeout_s: float = 0.0


class Detach(msgspec.Struct, frozen=True, tag_field="op", tag="detach"):
    """The starter goes away; the guest stays."""


class Pause(msgspec.Struct, frozen=True, tag_field="op", tag="pause"):
    """Stop the guest's CPUs."""


class Resume(msgspec.Struct, frozen=True, tag_field="op", tag="resume"):
    """Let them go on, and set the guest's clock."""


class SetMemory(msgspec.Struct, frozen=True, tag_field="op", tag="set-memory"):
    """Have the guest give memory back, or take it again; answered with `MemoryChanged`.

    :ivar memory_bytes: at most what it was started with.
    :ivar timeout_s: for the guest to get there.
    """

    memory_bytes: int
    timeout_s: float


class HoldStill(msgspec.Struct, frozen=True, tag_field="op", tag="hold-still"):
    """Stop the CPUs of a guest that writes to a disk; they go on when the asker closes."""

    disk: str


class ResizeDisk(msgspec.Struct, frozen=True, tag_field="op", tag="resize-disk"):
    """Give a disk that the guest writes to another size; answered with `DiskPlace`.

    :ivar size_bytes: 0 only asks where it is.
    """

    disk: str
    size_bytes: int


class ApplyPolicy(msgspec.Struct, frozen=True, tag_field="op", tag="apply-policy"):
    """Enforce what the topologies on disk say now."""


class AddShare(msgspec.Struct, frozen=True, tag_field="op", tag="add-share"):
    """Mount a folder of the host in the guest."""

    share: Share


class RemoveShare(msgspec.Struct, frozen=True, tag_field="op", tag="remove-share"):
    """Take the share at `guest` away; answered with `ShareRemoved`.

    :ivar force: also from programs that use it.
    :ivar revoke: leave the guest no way to it, whatever that costs its programs.
    """

    guest: str
    force: bool = False
    revoke: bool = False


class RemountShares(msgspec.Struct, frozen=True, tag_field="op", tag="remount-shares"):
    """Mount all shares anew."""


class Watch(msgspec.Struct, frozen=True, tag_field="op", tag="watch"):
    """Answered with the present state and every later one, until the guest ends."""


class Attach(msgspec.Struct, frozen=True, tag_field="op", tag="attach"):
    """Join the console: once answered, the connection carries its bytes, both ways.

    It begins with the end of what the console said so far, and ends when the
    keeper ends, or the asker closes.

    :ivar read_only: what the asker sends is dropped.
    """

    read_only: bool = False


Event = StageDone | StateChanged | Ready | Failed | Ended
"""What a keeper says to its starter."""

Answer = Done | Refused | StateChanged | MemoryChanged | DiskPlace | ShareRemoved
"""What a keeper says on its own socket."""

ShareOperation = AddShare | RemoveShare | RemountShares
"""What may be asked of a running guest's shares."""

Operation = (
    Stop
    | Pause
    | Resume
    | SetMemory
    | HoldStill
    | ResizeDisk
    | ApplyPolicy
    | ShareOperation
    | Watch
    | Attach
)
"""What may be asked of a keeper on its own socket."""

# The longest line either side accepts; a plan or an error with evidence is far smaller.
LINE_LIMIT_BYTES = 1024 * 1024
