# SPDX-License-Identifier: Apache-2.0
"""The keeper's process: `python -m innkeeper.keeper --control-fd N`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from innkeeper.keeper.control import Control
from innkeeper.keeper.guest import StopRequest
from innkeeper.keeper.lifecycle import keep
from innkeeper.system.sockets import adopt_stream


async def serve(control_fd: int) -> None:
    """Keep one guest, from the plan on the control channel to its end."""
    control = await Control.open(adopt_stream(control_fd))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, control.ask_stop, StopRequest())
    # Its session is its own; an interrupt from a terminal is the starter's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        plan = await control.receive_plan()
        if plan is not None:
            await keep(plan, control)
    finally:
        await control.close()


def main() -> None:
    """Read the arguments and serve."""
    if len(sys.argv) != 3 or sys.argv[1] != "--control-fd":
        sys.exit("usage: python -m innkeeper.keeper --control-fd N")
    # A starter holds signals back while it launches us, and a mask is inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    asyncio.run(serve(int(sys.argv[2])))
    # All is released and said; the interpreter's own end would take 20 ms more.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
