# SPDX-License-Identifier: Apache-2.0
"""`inn cp`: files and folders between the host and a guest that runs."""

from __future__ import annotations

import re
import time

import click

from innkeeper.agent.connect import connect_port
from innkeeper.agent.transfer import Peer, pull, push
from innkeeper.cli.output import Progress
from innkeeper.errors import UsageError
from innkeeper.keeper.client import witness
from innkeeper.keeper.machines import require_running
from innkeeper.model.sizes import format_size
from innkeeper.registry.layout import host_layout
from innkeeper.switchboard.ports import SHELL_PORT
from innkeeper.system.interrupt import interruptible

# A path of the host that looks like this is written as ./a:b.
_IN_GUEST = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*):(.*)", re.DOTALL)
_CONNECT_LIMIT_S = 10.0
_BETWEEN_S = 0.1


@click.command(context_settings={"allow_interspersed_args": True})
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of bytes and time.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
def cp(source: str, target: str, quiet: bool) -> None:
    """Copy a file or a folder: one of SRC and DST is NAME:PATH, in the running guest NAME.

    \b
    inn cp app.conf web:/etc/        into a folder that exists
    inn cp web:/var/log ./logs       a folder, under a new name
    inn cp site/. web:/srv/www       what is in a folder
    inn cp - web:/tmp/in < file      stdin or stdout, for one file

    Modes, times (in seconds) and links stay; files belong to root in the guest
    and to you on the host.
    """
    into, out_of = _IN_GUEST.fullmatch(target), _IN_GUEST.fullmatch(source)
    if bool(into) == bool(out_of):
        raise UsageError(
            "one of SRC and DST has to be in a guest, and one on the host",
            stage="cp",
            fix="write NAME:PATH for the guest's, and ./PATH for a host's with a colon",
        )
    match = into or out_of
    assert match is not None
    name, path = match[1], match[2]
    layout = host_layout()
    meter = _Meter(quiet=quiet)
    with interruptible():
        require_running(layout, name)
        with witness(layout, name) as guest:
            peer = Peer(
                name=name,
                connect=lambda: connect_port(
                    guest.vsock_path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S
                ),
                watch_fd=guest.fileno(),
                on_watch=guest.explain,
                on_progress=meter.show,
            )
            try:
                if into:
                    push(peer, source, path)
                else:
                    pull(peer, path, target)
            finally:
                meter.clear()
    meter.finish()


class _Meter:
    """Bytes and rate: on a terminal while they flow, everywhere at the end."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(quiet=quiet)
        self._since = self._shown = time.monotonic()
        self._count = 0

    def show(self, count: int) -> None:
        """So many bytes by now."""
        self._count = count
        now = time.monotonic()
        if now - self._shown >= _BETWEEN_S:
            self._shown = now
            self._progress.step(f"copied {self._text()}")

    def clear(self) -> None:
        """Take the changing line away."""
        self._progress.clear()

    def finish(self) -> None:
        """The line that stays."""
        self._progress.line(f"copied {self._text()}")

    def _text(self) -> str:
        seconds = max(0.001, time.monotonic() - self._since)
        rate = format_size(int(self._count / seconds))
        return f"{format_size(self._count)} in {seconds:.1f} s, {rate}/s"
