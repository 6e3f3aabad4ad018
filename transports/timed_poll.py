"""One descriptor for a connection that comes and goes, and for a time at which to look again."""

from __future__ import annotations

import logging
import select

from .timer import Timer

_log = logging.getLogger("prefork.transports")


class TimedPoll:
    """An epoll of at most one descriptor and of a timer, so it outlives connections. Used by one thread.

    :ivar timer: it fires, too, when the time of this one has come.
    :raises OSError: no descriptor is left.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fd = -1
        try:
            self.timer = Timer()
        except OSError:
            self._epoll.close()
            raise
        self._epoll.register(self.timer, select.EPOLLIN)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._epoll.closed

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def fires(self) -> bool:
        """Whether the descriptor is readable now."""
        return bool(self._epoll.poll(0))

    def watch(self, fd: int) -> None:
        """Fire when this descriptor is readable, too; in place of the one before.

        :raises OSError: it is none that can be polled.
        """
        self.unwatch()
        self._epoll.register(fd, select.EPOLLIN)
        self._fd = fd

    def unwatch(self) -> None:
        """Have the timer alone fire. Never raises: the descriptor may have been closed before."""
        fd, self._fd = self._fd, -1
        if fd < 0 or self._epoll.closed:
            return
        try:
            self._epoll.unregister(fd)
        except OSError:
            _log.debug("descriptor %d was closed already, and has left the epoll by that", fd)

    def close(self) -> None:
        """Release what this made; the watched descriptor is its owner's. Safe to call twice."""
        self._fd = -1
        self._epoll.close()
        self.timer.close()
