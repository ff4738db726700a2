# SPDX-License-Identifier: Apache-2.0
"""Launching a keeper's process. It waits for its plan, so it may be launched before there is one.

Python and the keeper's modules take 0.1 s to load; `inn run` launches the
keeper first and loads its own modules meanwhile.
"""

from __future__ import annotations

import os
import sys

from innkeeper.system.process import Child, spawn
from innkeeper.system.sockets import StreamSocket, stream_pair


class Launched:
    """A keeper without a plan: its process and our end of its control channel.

    It ends by itself when the channel closes before a plan came.
    """

    def __init__(self, child: Child, sock: StreamSocket) -> None:
        self.child = child
        self.sock = sock


# The keeper that was launched early, until somebody takes it.
_early: list[Launched] = []


def launch_keeper(*, stdout: int | None = None, stderr: int = 2) -> Launched:
    """Start a keeper's process.

    :param stdout: where it copies a console to that is to be shown; else nowhere.
    :param stderr: where it says what it did not expect.
    :raise HostError: it cannot be started.
    """
    ours, theirs = stream_pair()
    try:
        child = spawn(
            # -P: the working directory is not a place to import from.
            [sys.executable, "-P", "-m", "innkeeper.keeper", "--control-fd", str(theirs.fileno())],
            name="keeper",
            pass_fds=(theirs.fileno(),),
            stdout=stdout,
            stderr=stderr,
            new_session=True,
            # The keeper is this same program, wherever that was imported from.
            env={
                key: os.environ[key] for key in ("PYTHONPATH", "INN_LOCALTIME") if key in os.environ
            },
            # It tears down in order when our end closes; no signal must cut that short.
            die_with_parent=False,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Launched(child, ours)


def launch_early() -> None:
    """Launch the keeper that the next start of an attached guest will use."""
    _early.append(launch_keeper())


def take_early() -> Launched | None:
    """The keeper that was launched early, now the caller's; None where there is none."""
    return _early.pop() if _early else None


def drop_early() -> None:
    """End a keeper that nobody needed after all."""
    if (launched := take_early()) is not None:
        launched.sock.close()
        launched.child.end()
