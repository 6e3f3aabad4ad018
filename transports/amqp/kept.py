"""A connection that the broker has stopped reading from, kept until an alarm ends."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from time import monotonic

from ..errors import BrokerUnavailable
from .frames import ACK, NACK, Method, read_confirm
from .link import CHANNEL_ERRORS, Link
from .parcels import Mark

# How long after an alarm it is known what was stored of that which senders were left in doubt of.
_KNOWN_S = 60.0

_log = logging.getLogger("prefork.amqp")


class Kept:
    """A connection on which the broker takes nothing (memory or disk alarm), with what was sent on it.

    RabbitMQ says that a connection is blocked only once something is published on it, and what lies in
    the socket by then it reads when the alarm ends, even if the socket was closed long before. Whoever
    tried again on a new connection would add a copy each time. Kept, the connection tells when the alarm
    is over, and what became of the messages.

    :param link: with the connection; its owner's lock guards everything here.
    :param sent: by delivery tag, what the broker has said nothing of yet; None for what cannot be known
        again.
    :param stored: what it took before, with the same call.
    :ivar stored: this, and what it has taken since, unless something came back.
    """

    def __init__(
        self, link: Link, channel_id: int, sent: dict[int, Mark | None], stored: Sequence[Mark | None]
    ) -> None:
        self.link = link
        self.stored = Counter(mark for mark in stored if mark is not None)
        self._sent = sent
        self._came_back = False
        link.required().take(channel_id, self._on_content, self._on_method)

    def holds(self, mark: Mark | None) -> bool:
        """Whether it was sent here, so that it may come."""
        return mark is not None and (mark in self._sent.values() or mark in self.stored)

    def is_over(self, end_mono_s: float) -> bool:
        """Wait until the broker takes messages and has said of each what became of it.

        True as well when the connection was lost: then nobody can tell any more.
        """
        wire = self.link.current()
        if wire is None:
            return True
        try:
            with self.link.guarded("it took no messages"):
                wire.pump(0)
                while self._sent or self.link.blocked:
                    left_s = end_mono_s - monotonic()
                    if left_s <= 0:
                        return False
                    wire.pump(left_s)
        except (BrokerUnavailable, *CHANNEL_ERRORS) as error:
            _log.debug("a blocked connection is gone: %s", error)
            self.link.drop()
        return True

    def _on_method(self, method: Method, payload: bytes) -> bool:
        if method not in (ACK, NACK):
            return False
        tag, multiple = read_confirm(payload)
        for one in [each for each in self._sent if each <= tag] if multiple else [tag]:
            mark = self._sent.pop(one, None)
            if mark is not None and method == ACK and not self._came_back:
                self.stored[mark] += 1
        return True

    def _on_content(self, _method: Method, _arguments: bytes, _header: bytes, _body: bytes) -> None:
        # Which one it was is not worth finding out: what is confirmed from here on is sent again.
        self._came_back = True


class Known:
    """What was stored although its sender was told that it may not have been.

    :ivar stored: how many of each nobody has sent again yet.
    """

    def __init__(self) -> None:
        self.stored: Counter[Mark] = Counter()
        self._until_mono_s = 0.0

    def learn(self, stored: Counter[Mark]) -> None:
        """Know of more, for a while."""
        self.stored += stored
        self._until_mono_s = monotonic() + _KNOWN_S

    def missing(self, marks: Sequence[Mark | None]) -> list[int]:
        """The indices of what must be sent; the others were stored, which counts for one sender each."""
        if monotonic() > self._until_mono_s:
            self.stored.clear()
        missing = []
        for index, mark in enumerate(marks):
            if mark is not None and self.stored[mark]:
                self.stored[mark] -= 1
            else:
                missing.append(index)
        self.stored += Counter()  # without those of which none is left
        return missing
