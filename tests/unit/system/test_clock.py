# SPDX-License-Identifier: Apache-2.0
"""The watch over the host's clock, as far as it can be tested without setting that."""

from __future__ import annotations

import re
from pathlib import Path

from innkeeper.system.clock import ClockWatch


def test_the_timer_is_cancelled_by_a_jump_and_by_nothing_else() -> None:
    watch = ClockWatch()
    try:
        assert not watch.take()
        told = Path(f"/proc/self/fdinfo/{watch.fd}").read_text()
        # TFD_TIMER_ABSTIME and TFD_TIMER_CANCEL_ON_SET on CLOCK_REALTIME (proc_pid_fdinfo(5)).
        assert re.search(r"^clockid: 0$", told, re.MULTILINE)
        assert re.search(r"^settime flags: 03$", told, re.MULTILINE)
    finally:
        watch.close()
        watch.close()
