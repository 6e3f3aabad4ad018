"""One RESP3 connection on which replies and what the server tells unasked come mixed."""

from __future__ import annotations

from typing import Any, NamedTuple

import hiredis

from .wire import Wire


class Answer(NamedTuple):
    """Replies to what was asked.

    :param before: how many of the pushes read so far came before the first reply; a later one may be
        about what the first command has read already.
    """

    replies: list[Any]
    before: int


class TrackedConnection:
    """Commands that were packed beforehand, their replies, and the pushes in between.

    Used by one thread. Whatever it raises, the connection is of no use any more.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pushes: list[list[Any]] = []

    @property
    def where(self) -> str:
        """The server, for messages."""
        return self._wire.where

    def fileno(self) -> int:
        """The descriptor, readable when the server has told something."""
        return self._wire.fileno()

    def pushes(self, timeout_s: float) -> list[list[Any]]:
        """What the server has told so far.

        :param timeout_s: how long the rest of one that has begun may take.
        :raises OSError: the connection is broken.
        """
        self._wire.begin(timeout_s)
        while self._wire.can_read():
            item = self._wire.read()
            if not isinstance(item, hiredis.PushNotification):
                raise ConnectionError(f"a reply that nobody asked for: {item!r:.80}")
            self._pushes.append(item)
        found, self._pushes = self._pushes, []
        return found

    def ask(self, packed: bytes, replies: int, timeout_s: float) -> Answer:
        """Send commands and wait for their replies; refusals are returned as `ServerError`.

        :raises OSError: the connection is broken, or the server silent for `timeout_s`.
        """
        self._wire.begin(timeout_s)
        self._wire.write(packed)
        found: list[Any] = []
        before = 0
        while len(found) < replies:
            item = self._wire.read()
            if isinstance(item, hiredis.PushNotification):
                self._pushes.append(item)
                continue
            if not found:
                before = len(self._pushes)
            found.append(item)
        return Answer(found, before)

    def close(self) -> None:
        """Close the connection without a word. Safe to call twice."""
        self._wire.close()
