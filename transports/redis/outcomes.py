"""Outcomes as the arguments of one call of settle.lua."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..base import Outcome, Outgoing, StoredResult, Verdict
from ..errors import BrokerFull
from ..identifiers import fresh_id
from .keys import Keys, encode
from .link import Link
from .owners import Sources, Tag, read_tag
from .publish import Publisher
from .result_script import ResultKeys, lifetime_ms, separated
from .scripts import encode_for_lua
from .settings import RedisSettings

_log = logging.getLogger("prefork.transports.redis")
_VERDICTS = frozenset(Verdict)


class Destinations:
    """Where outcomes lead: queues through the publisher, results by the names of their store."""

    def __init__(self, keys: Keys, publisher: Publisher, settings: RedisSettings) -> None:
        self.keys = keys
        self.settings = settings
        # Where results go: to the broker's own database unless a store says otherwise. Written by the
        # thread that opens the store, before anything is settled.
        self.result_settings = settings
        self.result_keys = ResultKeys(separated(settings.global_keyprefix))
        self._publisher = publisher
        self._declared: set[str] = set()

    def can_store_for(self, store: RedisSettings) -> bool:
        """Whether a result store is on our server; if so, results go where it reads them."""
        if store.server[:-1] != self.settings.server[:-1]:
            return False
        self.result_settings = store
        self.result_keys = ResultKeys(separated(store.global_keyprefix))
        return True

    @staticmethod
    def check(outcome: Outcome) -> None:
        """Refuse what could not be done.

        :raises ValueError: no verdict, no time for DEFER, a follow-up without a queue or usable time.
        """
        if outcome.verdict not in _VERDICTS:
            raise ValueError(f"{outcome.verdict!r} is not a verdict; use one of {list(Verdict)}")
        if outcome.verdict is Verdict.DEFER and outcome.due_wall_s is None:
            raise ValueError("a deferred message needs due_wall_s, the Unix time at which it is ready again")
        check_due(outcome.due_wall_s)
        for message in outcome.follow_ups:
            check_outgoing(message)

    def resolved(self, link: Link, messages: Sequence[Outgoing]) -> tuple[list[Outgoing], list[Any]]:
        """Follow-ups by queue, with the announcements of fanout exchanges apart."""
        announcements: list[Any] = []
        if any(message.exchange for message in messages):
            messages, announcements = self._publisher.resolve(link, messages)
        self.declare(link, (message.queue for message in messages))
        return list(messages), announcements

    def declare(self, link: Link, queues: Iterable[str]) -> None:
        """Let publishers find these queues, unless that was done before."""
        fresh = set(queues) - self._declared
        if not fresh:
            return
        try:
            self._publisher.declare(link, sorted(fresh))
        except BrokerFull as error:
            # What is there must be worked off first: that is how space comes back.
            _log.warning("queues are declared later: %s", error)
        else:
            self._declared |= fresh


class Batch:
    """One call of settle.lua in the making."""

    def __init__(self, to: Destinations, sources: Sources, fence: bytes, held: bytes) -> None:
        self._to = to
        self._sources = sources
        self._fence = fence
        self._outcomes: list[tuple[Any, ...]] = []
        self._sent: list[bool] = []
        self._index: dict[bytes, int] = {}
        self.keys: list[bytes] = [held, to.keys.marked_lists, to.keys.due_queues, to.keys.dead]

    def add(self, link: Link, outcome: Outcome) -> None:
        """Add an outcome; one whose tag is nobody's is answered without the server."""
        verdict = int(outcome.verdict)
        tag = None
        if verdict:  # an acknowledgement needs nothing of the tag: the script looks for it among the held
            tag = read_tag(outcome.tag)
            if tag is None or tag.fence != self._fence or self._sources.of(tag) is None:
                self._sent.append(False)
                return
        self._sent.append(True)
        results = [self._result(result) for result in outcome.results]
        follow_ups = self._follow_ups(link, outcome.follow_ups) if outcome.follow_ups else []
        if tag is None:
            self._outcomes.append((outcome.tag, verdict, results, follow_ups))
        else:
            more = self._more(outcome, tag)
            self._outcomes.append((outcome.tag, verdict, results, follow_ups, more))

    def args(self) -> list[Any]:
        """The arguments of the script."""
        return [encode_for_lua(self._outcomes), fresh_id(), self._to.settings.db, self._to.result_settings.db]

    def answers(self, found: Sequence[int]) -> list[bool]:
        """The answers of the script, for all outcomes that were added."""
        answered = iter(found)
        return [sent and next(answered) == 1 for sent in self._sent]

    def _key(self, key: bytes) -> int:
        index = self._index.get(key)
        if index is None:
            self.keys.append(key)
            index = self._index[key] = len(self.keys)
        return index

    def _result(self, result: StoredResult) -> tuple[Any, ...]:
        key = self._to.result_keys.task(result.key)
        return (self._key(key), result.document, b"%d" % lifetime_ms(result.expires_s))

    def _follow_ups(self, link: Link, messages: Sequence[Outgoing]) -> list[tuple[Any, ...]]:
        keys = self._to.keys
        by_queue, announcements = self._to.resolved(link, messages)
        found: list[tuple[Any, ...]] = []
        for message in by_queue:
            queue, step = encode(message.queue), keys.step_of(message.priority)
            if message.due_wall_s is None:
                place = self._key(keys.list_of_step(queue, step))
                found.append((place, queue, step, message.document))
            else:
                place = self._key(keys.due(message.queue))
                found.append((place, queue, step, message.document, float(message.due_wall_s)))
        for channel, document in announcements:
            found.append((0, encode(channel), 0, document))
        return found

    def _more(self, outcome: Outcome, tag: Tag) -> tuple[Any, ...]:
        source = self._sources.all[tag.source]
        queue, step = source.queue_bytes, source.step
        causes = [line.encode("utf-8", "replace") for line in outcome.causes]
        if outcome.verdict is Verdict.REQUEUE:
            places = self._key(source.list), self._key(source.marked)
            return (*places, queue, step, outcome.crashed, causes)
        if outcome.verdict is Verdict.DEFER:
            assert outcome.due_wall_s is not None  # checked
            return (self._key(self._to.keys.due(source.queue)), queue, step, float(outcome.due_wall_s))
        return (queue, step, outcome.reason.encode("utf-8", "replace"), causes)


def check_due(due_wall_s: float | None) -> None:
    """Refuse a due time that cannot be ordered.

    :raises ValueError: it is not a number.
    """
    if due_wall_s is not None and math.isnan(due_wall_s):
        raise ValueError("due_wall_s must be a Unix time or None, not NaN")


def check_outgoing(message: Outgoing) -> None:
    """Refuse what could not be served.

    :raises ValueError: the message has no queue or no usable due time.
    """
    if not message.queue:
        raise ValueError("a message needs the name of a queue; got an empty one")
    check_due(message.due_wall_s)
