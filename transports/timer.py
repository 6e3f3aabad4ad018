"""A clock that can be polled: a descriptor that becomes readable after a time."""

from __future__ import annotations

import ctypes
import os

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_NS = 1_000_000_000


class Timer:
    """Becomes readable once, `after` so many seconds; never before the first call of `after`.

    :raises OSError: no descriptor is left.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS))
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def after(self, delay_s: float) -> None:
        """Become readable in `delay_s` seconds, and not before; 0 is at once."""
        delay_ns = max(1, int(delay_s * _NS))
        setting = (ctypes.c_long * 4)(0, 0, *divmod(delay_ns, _NS))
        if self._libc.timerfd_settime(self._fd, 0, ctypes.byref(setting), None) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def clear(self) -> bool:
        """Be unreadable again; whether the time had come."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release the descriptor. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
