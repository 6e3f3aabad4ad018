"""The watch of a memory broker: an eventfd that the broker rings under its lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class MemoryWatch:
    """Implements `transports.base.Watch` for the queues it names.

    :param forget: called once, before the descriptor goes, so that nobody rings it afterwards.
    """

    def __init__(self, queues: frozenset[str], forget: Callable[[MemoryWatch], None]) -> None:
        self.queues = queues
        self._forget = forget
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = threading.Lock()
        self._open = True  # written under _closing

    def fileno(self) -> int:
        """The descriptor, as in `Watch.fileno`."""
        return self._fd

    def ring(self) -> None:
        """Let the descriptor poll readable."""
        os.eventfd_write(self._fd, 1)

    def drain(self) -> None:
        """Forget what rang so far, as in `Watch.drain`."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return  # it had not rung

    def close(self) -> None:
        """Release the descriptor, as in `Watch.close`."""
        with self._closing:
            if not self._open:
                return
            self._open = False
        self._forget(self)
        os.close(self._fd)
        self._fd = -1
