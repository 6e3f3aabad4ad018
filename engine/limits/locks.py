"""Locks between the processes and threads of a worker; the kernel releases those of a process with it.

A byte of a file that has no name is locked as long as its holder lives (`fcntl.lockf`: such locks are
not inherited, so a task's own forks do not keep them). Taking one is bounded: the holder may be stopped
for a moment (design §3). The kernel takes all threads of a process for one holder: they are kept apart by a
lock of their own.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_THREADS_S: Final = 0.01
_PAUSES_S: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005)


class ByteLocks:
    """One lock per byte of a descriptor that all processes of a worker have inherited.

    A process makes one of these, for all of its threads.
    """

    __slots__ = ("_fd", "_threads")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Held by whichever thread of this process has, or waits for, any of them.
        self._threads = threading.Lock()

    @contextmanager
    def held(self, byte: int) -> Iterator[bool]:
        """Hold one lock; the value is False when somebody else kept it for some 10 ms. Not to be nested.

        :raises OSError: the descriptor was closed, which a task must have done.
        """
        if not self._threads.acquire(timeout=_THREADS_S):
            yield False
            return
        try:
            taken = self._take(byte)
            try:
                yield taken
            finally:
                if taken:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)
        finally:
            self._threads.release()

    def _take(self, byte: int) -> bool:
        for pause_s in (*_PAUSES_S, None):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return True
            except BlockingIOError:
                if pause_s is not None:
                    time.sleep(pause_s)
        return False
