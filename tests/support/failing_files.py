"""File operations that kill the process, or find the disk full, at a chosen call."""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

from prefork.transports.filesystem.fileops import FileOps

CHANGING = ("pwrite", "rename", "unlink", "mkdir", "rmdir", "fallocate", "fdatasync")
GROWING = ("mkdir", "fallocate", "rename")


class KilledAt(FileOps):
    """Kills (or stops) this process before the n-th call that changes something.

    :param number: counts from 1, while `armed`.
    """

    def __init__(self, number: int, signal_number: int = signal.SIGKILL) -> None:
        super().__init__()
        self.left = number
        self._signal_number = signal_number
        self.armed = False
        for name in CHANGING:
            setattr(self, name, self._counted(getattr(self, name)))
        really_open = self.open

        def open_(path: str, flags: int, mode: int = 0o600) -> int:
            if flags & os.O_CREAT:
                self._count()
            return really_open(path, flags, mode)

        self.open = open_  # type: ignore[assignment]

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self._count()
            return call(*args)

        return counted

    def _count(self) -> None:
        if self.armed:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self._signal_number)


class FullAt(FileOps):
    """Finds the disk full at the n-th call that needs space, and at every later one."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number
        self.armed = False
        self.hit = False
        for name in GROWING:
            setattr(self, name, self._counted(getattr(self, name)))
        really_open = self.open

        def open_(path: str, flags: int, mode: int = 0o600) -> int:
            if flags & os.O_CREAT and not os.path.lexists(path):
                self._count()
            return really_open(path, flags, mode)

        self.open = open_  # type: ignore[assignment]

    def write_all(self, fd: int, data: bytes | bytearray, offset: int) -> None:
        self._count()
        super().write_all(fd, data, offset)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self._count()
            return call(*args)

        return counted

    def _count(self) -> None:
        if self.armed:
            self.left -= 1
            if self.left <= 0:
                self.hit = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_in_child(action: Callable[[], None]) -> bool:
    """Run in a forked process; False when it was killed, True when it came to its end.

    :raises AssertionError: it ended in any other way.
    """
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return False
    assert os.WEXITSTATUS(status) == 0, "the action failed in the child"
    return True
