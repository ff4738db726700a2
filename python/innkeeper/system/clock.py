# SPDX-License-Identifier: Apache-2.0
"""Jumps of the host's wall clock: somebody set it, or the host was suspended (timerfd_create(2))."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time

from innkeeper.errors import HostError

# sys/timerfd.h and time.h; Python knows them from 3.13 on.
_CLOCK_REALTIME = 0
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
# The timer is not to fire: it is cancelled when the clock jumps.
_FAR_S = 100 * 365 * 86400

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class ClockWatch:
    """Tells when the wall clock jumped. Close it.

    :ivar fd: readable when it did.
    :raise HostError: this host cannot.
    """

    def __init__(self) -> None:
        self.fd: int = _LIBC.timerfd_create(_CLOCK_REALTIME, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise _error()
        try:
            self._arm()
        except HostError:
            self.close()
            raise

    def take(self) -> bool:
        """Whether the clock jumped since the last call."""
        jumped = False
        try:
            os.read(self.fd, 8)
        except OSError as exc:
            jumped = exc.errno == errno.ECANCELED
        if jumped:
            with contextlib.suppress(HostError):  # it was possible before
                self._arm()
        return jumped

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _arm(self) -> None:
        wanted = _Itimerspec(value=_Timespec(int(time.time()) + _FAR_S, 0))
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        if _LIBC.timerfd_settime(self.fd, flags, ctypes.byref(wanted), None) != 0:
            raise _error()


def _error() -> HostError:
    return HostError(f"cannot watch the clock: {os.strerror(ctypes.get_errno())}", stage="clock")
