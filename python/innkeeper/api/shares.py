# SPDX-License-Identifier: Apache-2.0
"""Folders of the host in a guest, for Python programs: `vm.shares`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from innkeeper.keeper.sharing import (
    KnownShare,
    add_share,
    list_shares,
    remount_shares,
    remove_share,
)
from innkeeper.model.share import make_share

if TYPE_CHECKING:
    from innkeeper.registry.layout import Layout


class GuestShares:
    """The shares of one machine. `vm.shares`."""

    def __init__(self, layout: Layout, name: str) -> None:
        self._layout = layout
        self._name = name

    def add(
        self,
        host: str | Path,
        guest: str,
        *,
        read_only: bool = False,
        uid_map: Sequence[str] = (),
        gid_map: Sequence[str] = (),
        squash: bool = False,
    ) -> None:
        """Show the host's folder `host` at `guest`; a machine has it at its next start too.

        :param host: relative to the present folder, or absolute.
        :param guest: absolute; made where it is missing.
        :param read_only: the host keeps the guest from changing the folder.
        :param uid_map: whom the guest's users are on the host: "GUEST:HOST:COUNT",
            "GUEST:HOST" for one, "GUEST" for you.
        :param gid_map: the same of groups.
        :param squash: all users of the guest are the one of the maps, or else you.
        :raise HostError: there is no such folder, this host cannot share any, or cannot
            map its users.
        :raise UsageError: another is shared at that place, or the guest, started by
            :meth:`Machine.run` without `shares`, cannot have any.
        :raise GuestError: the guest cannot mount it.
        """
        share = make_share(
            str(Path(host).absolute()),
            guest,
            read_only=read_only,
            uid_map=uid_map,
            gid_map=gid_map,
            squash=squash,
        )
        add_share(self._layout, self._name, share)

    def list(self) -> tuple[KnownShare, ...]:
        """The shares of the machine and its guest, by their places."""
        return list_shares(self._layout, self._name)

    def remove(self, guest: str, *, force: bool = False, revoke: bool = False) -> bool:
        """Take the share at `guest` away; True when the guest still holds files of it.

        :param force: also from programs that use it, which go on with what they have open.
        :param revoke: leave the guest no way to it: kill those programs.
        :raise UnknownName: there is no share at this place.
        :raise GuestError: programs of the guest use it; the evidence names them.
        """
        return remove_share(self._layout, self._name, guest, force=force, revoke=revoke)

    def remount(self) -> None:
        """Mount all shares anew; what is open in them is lost.

        :raise GuestError: the guest does not run, or its programs hold on to lost files.
        """
        remount_shares(self._layout, self._name)
