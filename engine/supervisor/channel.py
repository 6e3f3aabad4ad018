"""The supervisor's end of a channel: never blocks, keeps what does not fit until it does."""

from __future__ import annotations

import collections
import os
import socket
from collections.abc import Sequence
from typing import Any

from ..process_link import PacketError, receive, send


class PacketChannel:
    """Sends and receives without waiting.

    :ivar closed: the other end has gone, or has sent what no process of ours sends.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._outbox: collections.deque[tuple[dict[str, Any], tuple[int, ...]]] = collections.deque()
        self.closed = False
        self.fault: PacketError | None = None

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send, now or as soon as there is room. The descriptors are closed once they are sent."""
        self._outbox.append((message, tuple(fds)))
        self.flush()

    def flush(self) -> None:
        """Send what has been kept."""
        while self._outbox and not self.closed:
            message, fds = self._outbox[0]
            try:
                send(self._socket, message, fds)
            except BlockingIOError:
                return
            except OSError:
                # Its death is seen through the pidfd; what was to be said is said to its successor.
                self.closed = True
                return
            self._outbox.popleft()
            for fd in fds:
                os.close(fd)

    def receive(self, limit: int = 64) -> list[dict[str, Any]]:
        """The messages that are there, at most `limit` of them."""
        messages: list[dict[str, Any]] = []
        while len(messages) < limit and not self.closed:
            try:
                message, fds = receive(self._socket)
            except BlockingIOError:
                break
            except PacketError as error:
                self.closed, self.fault = True, error
                break
            for fd in fds:
                os.close(fd)
            if message is None:
                self.closed = True
                break
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        for _, fds in self._outbox:
            for fd in fds:
                os.close(fd)
        self._outbox.clear()
        self._socket.close()
