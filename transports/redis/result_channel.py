"""One connection on which results are announced and read: subscriptions and replies, mixed (RESP3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from time import monotonic
from typing import Any

import hiredis

from ..errors import TransportError
from .faults import ServerError
from .wire import Wire, pack

QUIET_S = 2.0
"""After so long without a word the server is asked whether it is still there."""

LOOK_BYTES = 8192
"""Longer documents are not read over this connection.

A server ends a subscriber's connection that has more than 32 MB (client-output-buffer-limit) to take.
"""

_LISTEN_KEYS = 500
_READ_KEYS = 1000


class ResultChannel:
    """Subscriptions to results, and reads in step with them. Used by one thread at a time.

    Whatever it raises, it is of no use any more: a new one is told everything again.

    :param answer_s: how long the server may keep silent when it was asked something.
    :param refused: makes the error of an error reply to a command.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        answer_s: float,
        refused: Callable[[ServerError, str], TransportError],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._wire = wire
        self._answer_s = answer_s
        self._refused = refused
        self._now = now
        # Keys whose documents were asked for and have not come yet, in order; None is a sign of life.
        self._asked: deque[bytes | None] = deque()
        self._to_ask: deque[bytes] = deque()
        self._heard_mono_s = now()
        self.listening: set[bytes] = set()

    def fileno(self) -> int:
        """Readable when something was said."""
        return self._wire.fileno()

    @property
    def owes(self) -> bool:
        """Whether the server has yet to answer something."""
        return bool(self._asked or self._to_ask)

    @property
    def look_mono_s(self) -> float:
        """When `check` wants to be called, if nothing is heard before."""
        return self._heard_mono_s + (self._answer_s if self.owes else QUIET_S)

    def ask(self, listen: Collection[bytes], unlisten: Collection[bytes], read: Sequence[bytes]) -> None:
        """Subscribe and unsubscribe, then ask for documents: whatever is written later is announced.

        :raises OSError: the connection is broken.
        """
        parts = [pack(("SUBSCRIBE", *some)) for some in _pieces(listen, _LISTEN_KEYS)]
        parts += [pack(("UNSUBSCRIBE", *some)) for some in _pieces(unlisten, _LISTEN_KEYS)]
        self._to_ask.extend(read)
        parts += self._questions()
        if parts:
            self._write(b"".join(parts))
        self.listening.update(listen)
        self.listening.difference_update(unlisten)

    def receive(self) -> list[tuple[bytes, bytes | None]]:
        """Keys and documents that were announced or read by now; None for one that is too long.

        :raises OSError: the connection is broken.
        :raises TransportError: the server refused something.
        """
        found: list[tuple[bytes, bytes | None]] = []
        self._wire.begin(self._answer_s)
        while self._wire.can_read():
            item = self._wire.read()
            self._heard_mono_s = self._now()
            if not isinstance(item, hiredis.PushNotification):
                self._answered(item, found)
            elif item[0] == b"message":
                found.append((item[1], item[2]))
        questions = self._questions()
        if questions:
            self._write(b"".join(questions))
        return found

    def _questions(self) -> list[bytes]:
        """The next questions, once all others were answered."""
        if self._asked:
            return []
        some = [self._to_ask.popleft() for _ in range(min(_READ_KEYS, len(self._to_ask)))]
        for key in some:
            self._expect(key)
        return [pack(("GETRANGE", key, 0, LOOK_BYTES - 1)) for key in some]

    def _answered(self, item: Any, found: list[tuple[bytes, bytes | None]]) -> None:
        if isinstance(item, ServerError):
            if item.word == "WRONGTYPE" and self._asked:
                self._asked.popleft()  # the key holds something that is no result
                return
            raise self._refused(item, "reading results")
        if not self._asked:
            raise ConnectionError(f"a reply that nobody asked for: {item!r:.80}")
        key = self._asked.popleft()
        # A key that does not exist reads as empty text, and so would an empty document.
        if key is not None and item:
            found.append((key, item if len(item) < LOOK_BYTES else None))

    def check(self, now_mono_s: float) -> None:
        """Ask a silent server for a sign of life.

        :raises OSError: it owes us an answer for too long.
        """
        if now_mono_s < self.look_mono_s:
            return
        if self.owes:
            raise TimeoutError("it did not answer in time")
        self._expect(None)
        self._write(pack(("PING",)))

    def _expect(self, key: bytes | None) -> None:
        if not self._asked:
            self._heard_mono_s = self._now()
        self._asked.append(key)

    def _write(self, data: bytes) -> None:
        self._wire.begin(self._answer_s)
        self._wire.write(data)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._wire.close()


def _pieces(keys: Collection[bytes], most: int) -> Iterator[list[bytes]]:
    left = iter(keys)
    while some := list(islice(left, most)):
        yield some
