"""A watch for a broker that tells of new messages only by handing them over: it fires regularly.

Children take no harm from it: an idle one sleeps on its own connection (`Wakeable`), and is woken by
the message itself. The watch lets the agent look at the depth of the queues now and then.
"""

from __future__ import annotations

import ctypes
import os
import threading

INTERVAL_S = 0.25

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Interval(ctypes.Structure):
    _fields_ = (("every", _Timespec), ("first", _Timespec))


class TimerWatch:
    """Implements `transports.base.Watch` by a timer of the kernel."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        every = _Timespec(int(interval_s), int(interval_s % 1 * 1e9))
        interval = _Interval(every, every)
        if libc.timerfd_settime(self._fd, 0, ctypes.byref(interval), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._closing = threading.Lock()

    def fileno(self) -> int:
        """The descriptor, as in `Watch.fileno`."""
        return int(self._fd)

    def drain(self) -> None:
        """Forget what fired so far, as in `Watch.drain`."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # it had not fired

    def close(self) -> None:
        """Release the descriptor, as in `Watch.close`."""
        with self._closing:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
