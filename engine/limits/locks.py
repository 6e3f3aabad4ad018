"""Locks between the processes of a worker that the kernel releases with their holder.

A byte of a file that has no name is locked as long as its holder lives (`fcntl.lockf`: such locks are
not inherited, so a task's own forks do not keep them). Taking one is bounded: the holder may be stopped
for a moment (design §3).
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PAUSES_S: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005)


class ByteLocks:
    """One lock per byte of a descriptor that all processes of a worker have inherited."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @contextmanager
    def held(self, byte: int) -> Iterator[bool]:
        """Hold one lock; the value is False when somebody else kept it for some 10 ms.

        :raises OSError: the descriptor was closed, which a task must have done.
        """
        taken = self._take(byte)
        try:
            yield taken
        finally:
            if taken:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)

    def _take(self, byte: int) -> bool:
        for pause_s in (*_PAUSES_S, None):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return True
            except BlockingIOError:
                if pause_s is not None:
                    time.sleep(pause_s)
        return False
