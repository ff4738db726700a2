# SPDX-License-Identifier: Apache-2.0
"""The async twin of `vm.shares`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from innkeeper.api.shares import GuestShares
from innkeeper.api.threads import in_thread
from innkeeper.keeper.sharing import KnownShare


class AsyncGuestShares:
    """As :class:`GuestShares`, with `await`."""

    def __init__(self, shares: GuestShares) -> None:
        self._shares = shares

    async def add(
        self,
        host: str | Path,
        guest: str,
        *,
        read_only: bool = False,
        uid_map: Sequence[str] = (),
        gid_map: Sequence[str] = (),
        squash: bool = False,
    ) -> None:
        """As :meth:`GuestShares.add`."""
        await in_thread(
            lambda: self._shares.add(
                host,
                guest,
                read_only=read_only,
                uid_map=uid_map,
                gid_map=gid_map,
                squash=squash,
            )
        )

    async def list(self) -> tuple[KnownShare, ...]:
        """As :meth:`GuestShares.list`."""
        return await in_thread(self._shares.list)

    async def remove(self, guest: str, *, force: bool = False, revoke: bool = False) -> bool:
        """As :meth:`GuestShares.remove`."""
        return await in_thread(lambda: self._shares.remove(guest, force=force, revoke=revoke))

    async def remount(self) -> None:
        """As :meth:`GuestShares.remount`."""
        await in_thread(self._shares.remount)
