"""Inotify through ctypes: says without polling that a queue may have something."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import struct
from collections.abc import Iterable

from ..errors import BrokerUnavailable

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_MOVED_TO = 0x80
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
# A file that is removed while somebody has it open only changes its attributes.
_REPLACED = IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 << 10
_TICK_NS = 50_000_000
_CLOCK_MONOTONIC = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


@functools.lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Inotify:
    """A pollable descriptor that reports what happens below watched paths.

    :raises OSError: the kernel has no inotify instance left (EMFILE).
    """

    def __init__(self) -> None:
        self.fd = int(_libc().inotify_init1(_TFD_FLAGS))
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def add(self, path: str, mask: int) -> int:
        """Watch a path; the number stands for it in events."""
        number = int(_libc().inotify_add_watch(self.fd, os.fsencode(path), mask))
        if number < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return number

    def remove(self, number: int) -> None:
        """Stop watching; a path that is gone was removed by the kernel."""
        _libc().inotify_rm_watch(self.fd, number)

    def read(self) -> list[tuple[int, int, str]]:
        """What happened: (watch, mask, name) each; empty when nothing did."""
        found: list[tuple[int, int, str]] = []
        while True:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = data[at : at + length].rstrip(b"\0")
                at += length
                found.append((number, mask, os.fsdecode(name)))

    def close(self) -> None:
        """Drop the descriptor. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def ticking_fd() -> int:
    """A descriptor that becomes readable every 50 ms: the last resort when there is no inotify."""
    fd = int(_libc().timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS))
    if fd < 0:
        number = ctypes.get_errno()
        raise BrokerUnavailable(
            f"neither inotify nor a timer to watch queues with: {os.strerror(number)}; "
            "raise fs.inotify.max_user_instances or the limit of open files"
        )
    setting = (ctypes.c_long * 4)(0, _TICK_NS, 0, _TICK_NS)
    _libc().timerfd_settime(fd, 0, ctypes.byref(setting), None)
    return fd


class QueueWatch:
    """Fires when the `in` file of a queue was written. See the port for the contract.

    :param paths: the `in` files; they exist.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(paths)
        self._inotify: Inotify | None = None
        self._timer_fd = -1
        self._lost: set[str] = set()
        self._watched: dict[int, str] = {}
        try:
            self._inotify = Inotify()
            for path in self._paths:
                self._arm(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.ENOSYS):
                self.close()
                raise
            self._fall_back()

    @property
    def polling(self) -> bool:
        """Whether it had to fall back to a timer."""
        return self._timer_fd >= 0

    @property
    def lost(self) -> bool:
        """Whether a queue was removed and is not watched until the next `drain` that finds it."""
        return bool(self._lost)

    def _fall_back(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._timer_fd = ticking_fd()

    def _arm(self, path: str) -> None:
        assert self._inotify is not None
        try:
            number = self._inotify.add(path, IN_MODIFY | _REPLACED)
            self._watched[number] = path
            self._lost.discard(path)
        except FileNotFoundError:
            self._lost.add(path)

    def fileno(self) -> int:
        """A descriptor that polls readable when something may be ready."""
        return self._timer_fd if self._inotify is None else self._inotify.fd

    def drain(self) -> None:
        """Forget what fired so far, and watch again what was replaced."""
        if self._inotify is None:
            if self._timer_fd >= 0:
                with contextlib.suppress(BlockingIOError):  # it did not tick since
                    os.read(self._timer_fd, 8)
            return
        for number, mask, _ in self._inotify.read():
            if mask & (_REPLACED | _IN_IGNORED):
                path = self._watched.pop(number, None)
                if path is not None:
                    self._inotify.remove(number)
                    self._lost.add(path)
        for path in list(self._lost):
            self._arm(path)

    def close(self) -> None:
        """Release the descriptor. Safe to call twice."""
        if self._inotify is not None:
            self._inotify.close()
        fd, self._timer_fd = self._timer_fd, -1
        if fd >= 0:
            os.close(fd)
