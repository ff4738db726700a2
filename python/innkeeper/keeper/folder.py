# SPDX-License-Identifier: Apache-2.0
"""A guest whose runtime folder is removed ends: nobody could reach it any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from innkeeper.errors import HostError
from innkeeper.keeper.control import Control
from innkeeper.keeper.guest import StopRequest
from innkeeper.registry.names import Claim
from innkeeper.system.follow import FolderWatch


@contextlib.contextmanager
def stop_when_removed(held: Claim, control: Control) -> Iterator[None]:
    """Ask for an orderly stop when the claimed folder goes, as long as the block runs."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        watch.take()
        if not held.in_place():
            loop.remove_reader(watch.fd)
            control.ask_stop(StopRequest(reason="its runtime folder was removed while it ran"))

    with contextlib.ExitStack() as stack:
        # Without a watch, as when there are too many, the guest goes on unwatched.
        with contextlib.suppress(HostError):
            watch = stack.enter_context(FolderWatch())
            watch.add(held.folder.path)
            loop.add_reader(watch.fd, look)
            stack.callback(loop.remove_reader, watch.fd)
        yield
