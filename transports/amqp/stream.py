"""Having messages pushed while others run, to a child whose tasks are known to be short.

To ask for messages costs the broker a call between two of its processes for each, and the child stands
still meanwhile: a queue that is full is emptied a quarter faster where it pushes (docs/decisions/0013).
But what is pushed lies with this connection before anybody has asked for it. So only whoever promises to
say when a task takes longer than expected (`Streams` of `transports.base`) has messages pushed, never more
than the read-ahead, from one queue, and as long as they come without a pause.

Everything here belongs to the thread that holds the lock of the link.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from .frames import consume_frame
from .wire import Wire

STREAM_TAG: Final = "s0"
"""The name of the consumer; others are called q0, q1, …"""

READ_AHEAD_MIN: Final = 64
"""With less, a task takes so long that asking does not matter."""

# A queue that has pushed nothing for so long is taken to be empty. What comes meanwhile ends the wait.
_PAUSE_S: Final = 0.2

# One run that was held up moves the average of its task for a moment. So a read-ahead that has shrunk is
# believed when it stays so, unless it has shrunk to this part: then some task was not short at all.
_SHRUNK_TIMES: Final = 3
_SHRUNK_AT_ONCE: Final = 8
_WRITE_S: Final = 5.0
# Without an answer the connection is given up, and with it the task that runs: it would run once more.
_END_S: Final = 30.0

_log = logging.getLogger("prefork.amqp")


class Stream:
    """The one consumer that is open while a child works, if it is.

    :param set_prefetch: sets the prefetch count of consumers to come, and waits for the answer.
    :param cancel: ends consumers, and reads all that was pushed to them.
    :ivar allowed: whether messages may be pushed at all; written by whoever reserves.
    :ivar prefetch: how many may be held; 0 while nothing is pushed.
    """

    def __init__(
        self, set_prefetch: Callable[[int], None], cancel: Callable[[Wire, list[str], float], None]
    ) -> None:
        self._set_prefetch = set_prefetch
        self._cancel = cancel
        self.allowed = False
        self.prefetch = 0
        # Whether the last batch that was asked for came in full.
        self.plenty = False
        self._shrunk = 0
        self._last_n = 0

    def fits(self, max_n: int) -> bool:
        """Whether to begin to have so many pushed: not while the read-ahead still doubles."""
        grows, self._last_n = max_n >= 2 * self._last_n, max_n
        return self.allowed and self.plenty and not (self.prefetch or grows) and max_n >= READ_AHEAD_MIN

    def begin(self, wire: Wire, channel_id: int, queue: str, max_n: int) -> None:
        """Have up to `max_n` messages pushed, settled ones not counted."""
        self._set_prefetch(max_n)
        wire.write(consume_frame(channel_id, queue, STREAM_TAG), _WRITE_S)
        self.prefetch, self._shrunk = max_n, 0
        _log.debug("queue %r: up to %d messages are pushed from now on", queue, max_n)

    def flow(self, wire: Wire, max_n: int, has_come: Callable[[], object]) -> None:
        """Read what was pushed, and end when nothing more comes, or tasks have become longer.

        :param has_come: whether something lies in the inbox.
        """
        if self._has_shrunk(max_n):
            self.end(wire)
            return
        wire.pump(0)
        if not has_come():
            wire.pump(_PAUSE_S)
        if not has_come():
            self.end(wire)

    def _has_shrunk(self, max_n: int) -> bool:
        """Whether tasks take so much longer that fewer should be held."""
        self._shrunk = self._shrunk + 1 if max_n < self.prefetch - self.prefetch // 4 else 0
        return self._shrunk >= _SHRUNK_TIMES or max_n < self.prefetch // _SHRUNK_AT_ONCE

    def end(self, wire: Wire) -> None:
        """Have no more pushed, and know what has been pushed so far."""
        self.plenty = False
        if self.prefetch:
            self.prefetch = 0
            _log.debug("messages are asked for again")
            self._cancel(wire, [STREAM_TAG], _END_S)

    def forget(self) -> None:
        """The channel is gone, and the consumer with it."""
        self.prefetch, self.plenty = 0, False
