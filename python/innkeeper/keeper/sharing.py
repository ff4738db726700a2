# SPDX-License-Identifier: Apache-2.0
"""What can be done with a machine's shares by its name: add, list, remove, mount anew.

A running guest changes at once, and its machine, if it has one, has them at its next
start too. Both halves can be repeated: a command that was killed between them is
finished by the next one.
"""

from __future__ import annotations

import msgspec

from innkeeper.errors import UnknownName
from innkeeper.keeper.client import ask_keeper
from innkeeper.keeper.machines import require_running
from innkeeper.keeper.messages import AddShare, RemountShares, RemoveShare, ShareRemoved
from innkeeper.keeper.shares import check_folder, check_maps
from innkeeper.model.machine import Machine
from innkeeper.model.record import LIVE_STATES
from innkeeper.model.share import Share, ShareReport, users_text
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import load_machine, machine_names, read_record, replace_machine
from innkeeper.shares.users import host_ids, plan_users

# The agent of a loaded guest and a server that starts take less, one after the other.
_LIMIT_S = 60.0


class KnownShare(msgspec.Struct, frozen=True, kw_only=True):
    """A share of a machine or a guest.

    :ivar users: the options of the share that say whom the guest's users are, "" for none.
    :ivar mounted: the running guest has it.
    :ivar stays: the machine has it at its next start.
    """

    host: str
    guest: str
    read_only: bool
    users: str
    mounted: bool
    stays: bool


def add_share(layout: Layout, name: str, share: Share) -> None:
    """Show a folder of the host in a guest; one that is there already is fine.

    :raise UnknownName: there is neither a machine nor a guest with this name.
    :raise InnError: the folder is missing, the place is taken, or the guest cannot.
    """
    machine = _stored(layout, name)
    check_folder(share)
    changed = machine
    if machine is not None and share not in machine.shares:
        # Refuses two at one place.
        changed = msgspec.structs.replace(machine, shares=(*machine.shares, share))
    wanted = (share,) if changed is None else changed.shares
    check_maps(plan_users(wanted, host_ids()), (share,))
    if _lives(layout, name) or machine is None:
        require_running(layout, name)
        ask_keeper(layout, name, AddShare(share), timeout_s=_LIMIT_S)
    if changed is not None and changed is not machine:
        replace_machine(layout, changed)


def remove_share(
    layout: Layout, name: str, guest: str, *, force: bool = False, revoke: bool = False
) -> bool:
    """Take the share at a place of the guest away; True when its kernel still holds files of it.

    :param force: also from programs that use it.
    :param revoke: leave the guest no way to it: programs that use it are killed, and where
        its kernel still holds something then, its other shares are mounted anew.
    :raise UnknownName: there is no such machine, or it has no share there.
    :raise GuestError: programs of the guest use it; it names them.
    """
    known = {share.guest: share for share in list_shares(layout, name)}
    if guest not in known:
        raise UnknownName(f"share of {name!r} at", guest, tuple(known), stage="shares")
    held = False
    if known[guest].mounted:
        operation = RemoveShare(guest, force=force, revoke=revoke)
        answer = ask_keeper(layout, name, operation, timeout_s=_LIMIT_S)
        held = isinstance(answer, ShareRemoved) and answer.held
    machine = _stored(layout, name)
    if machine is not None:
        left = tuple(share for share in machine.shares if share.guest != guest)
        if left != machine.shares:
            replace_machine(layout, msgspec.structs.replace(machine, shares=left))
    return held


def remount_shares(layout: Layout, name: str) -> None:
    """Mount all shares of a running guest anew, whoever uses them.

    :raise GuestError: it does not run, or its programs hold on to what was before.
    """
    require_running(layout, name)
    ask_keeper(layout, name, RemountShares(), timeout_s=_LIMIT_S)


def list_shares(layout: Layout, name: str) -> tuple[KnownShare, ...]:
    """The shares of a machine and its guest, by their places.

    :raise UnknownName: there is neither a machine nor a guest with this name.
    """
    report = share_report(layout, name)
    machine = _stored(layout, name)
    mounted = set() if report is None else set(report.shares)
    stored = set() if machine is None else set(machine.shares)
    return tuple(
        KnownShare(
            host=share.host,
            guest=share.guest,
            read_only=share.read_only,
            users=users_text(share),
            mounted=share in mounted,
            stays=share in stored,
        )
        for share in sorted(mounted | stored, key=lambda share: share.guest)
    )


def share_report(layout: Layout, name: str) -> ShareReport | None:
    """How the shares of a running guest are served; None where it has none or does not run.

    :raise UnknownName: there is neither a machine nor a guest with this name.
    """
    record = read_record(layout, name)
    return record.shares if record.state in LIVE_STATES else None


def _lives(layout: Layout, name: str) -> bool:
    return read_record(layout, name).state in LIVE_STATES


def _stored(layout: Layout, name: str) -> Machine | None:
    return load_machine(layout, name) if name in machine_names(layout) else None
