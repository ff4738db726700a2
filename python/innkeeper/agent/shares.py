# SPDX-License-Identifier: Apache-2.0
"""Calls to the guest's agent for folders of the host that come and go while it runs."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from innkeeper.agent.control import ControlClient
from innkeeper.agent.text import clean_text
from innkeeper.errors import CallFailed, GuestError
from innkeeper.model.share import Share

# A guest under load; mounting itself takes milliseconds.
_TIMEOUT_S = 20.0


class ShareClient(ControlClient):
    """A client of one guest's agent; close it, or use it as a context manager."""

    def attach_shares(
        self,
        transport: str,
        shares: Sequence[Share],
        *,
        anew: bool = False,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Mount shares in the guest.

        :param transport: as on the kernel command line: "virtiofs:TAG".
        :param anew: these are all; they are unmounted first, whoever uses them.
        :raise GuestError: the guest could not; it says why.
        """
        pb = self._pb
        request = pb.AttachSharesRequest(
            transport=transport,
            places=[pb.SharePlace(key=share.key, path=share.guest) for share in shares],
            anew=anew,
        )
        answer = self._call("AttachShares", self._stub.AttachShares, request, timeout_s)
        if answer.error:
            raise GuestError(
                "the guest cannot mount its shares",
                stage="shares",
                evidence=(clean_text(answer.error),),
            )

    def detach_share(
        self,
        share: Share,
        *,
        force: bool = False,
        kill: bool = False,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Unmount a share in the guest; one that is not mounted is fine.

        :param force: also a busy one; who uses it goes on with it.
        :param kill: end who uses it first.
        :raise GuestError: programs of the guest use it; it names them.
        """
        pb = self._pb
        place = pb.SharePlace(key=share.key, path=share.guest)
        request = pb.DetachShareRequest(place=place, force=force, kill=kill)
        answer = self._call("DetachShare", self._stub.DetachShare, request, timeout_s)
        if answer.error == errno.EBUSY:
            raise GuestError(
                f"programs of the guest use {share.guest}",
                stage="shares",
                evidence=tuple(
                    f"{holder.pid} ({clean_text(holder.name)}, {clean_text(holder.what)})"
                    for holder in answer.holders
                ),
                fix="end them, or take it away all the same with --force",
            )
        if answer.error not in (0, errno.EINVAL, errno.ENOENT):
            raise CallFailed(
                f"the guest cannot unmount {share.guest}: error {answer.error}", stage="shares"
            )
