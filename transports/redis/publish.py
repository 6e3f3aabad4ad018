"""Sending: one LPUSH in the usual case, one script for everything else.

The usual case is a message for a queue that this process has declared before. Everything else (first
use of a queue, several queues, delayed messages, queues that expire, exchanges) is one call of
publish.lua, which stores all of it or nothing. Facts: interop §5.2-§5.6.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..base import Outgoing, QueueDeclaration
from ..errors import Unroutable
from ..identifiers import fresh_id
from .bindings import Bindings, retagged
from .keys import Keys
from .link import Link
from .pool import Pool
from .scripts import PUBLISH
from .settings import RedisSettings

_log = logging.getLogger("prefork.transports.redis")
_PLACES_MAX = 10_000


class Announcement(NamedTuple):
    """A message for the subscribers of a fanout exchange: published, and stored nowhere."""

    channel: str
    document: bytes


class Resolved(NamedTuple):
    """Messages without exchanges."""

    messages: list[Outgoing]
    announcements: list[Announcement]


class Publisher:
    """Sends messages for one process. Safe to use from several threads.

    :param declarations: queue names -> `QueueDeclaration`, as the transport was opened with.
    """

    def __init__(
        self, settings: RedisSettings, pool: Pool, declarations: Mapping[str, QueueDeclaration]
    ) -> None:
        self.bindings = Bindings(settings, declarations)
        self._pool = pool
        self._keys = Keys(settings)
        self._nowhere = settings.deadletter_queue
        # Each is written by any thread that sends, one operation at a time; a lost entry costs a
        # round trip more.
        self._places: dict[tuple[str, int], bytes] = {}
        self._declared: set[str] = set()

    def send(self, messages: Sequence[Outgoing], within_s: float | None = None) -> None:
        """Store messages; all of them, or none.

        :param within_s: total time; None means ``publish_deadline_s``.
        :raises BrokerUnavailable: with `outcome_unknown` when they may have been stored.
        :raises WrongKeyType: the key of a queue holds something else; nothing was stored.
        """
        if len(messages) == 1:
            message = messages[0]
            place = self._places.get((message.queue, message.priority))
            if place is not None and not message.exchange and message.due_wall_s is None:
                with self._pool.link(within_s) as link:
                    link.call(b"LPUSH", place, message.document)
                return
        if messages:
            self._send(messages, within_s)

    def _send(self, messages: Sequence[Outgoing], within_s: float | None) -> None:
        with self._pool.link(within_s) as link:
            if any(message.exchange for message in messages):
                messages, announcements = self.resolve(link, messages)
            else:
                announcements = []
            lists = self._by_list(messages)
            names = {message.queue for message in messages}
            fresh = names - self._declared
            expiring = self._expiring(names)
            if len(lists) == 1 and not (fresh or announcements or expiring):
                (place,) = lists
                if len(lists[place]) == len(messages):
                    link.call(b"LPUSH", place, *lists[place])
                    return
            request = _Request()
            request.push(lists)
            self._delay(request, messages)
            for queue in sorted(fresh):
                self._bind(request, queue)
            for queue, expires_ms in expiring:
                self._expire(request, queue, expires_ms)
            for channel, document in announcements:
                request.add((), (b"P", b"2", channel, document))
            if request.args:
                self._complain(link.run(PUBLISH, request.keys, request.args))
        self._remember(messages)

    def resolve(self, link: Link, messages: Iterable[Outgoing]) -> Resolved:
        """Follow the bindings of every exchange: each queue gets a copy with its own delivery tag.

        A message that no binding leads anywhere goes to `deadletter_queue`, if that is set.

        :raises Unroutable: else; on this wire it would be lost.
        """
        found = Resolved([], [])
        tables: dict[str, list[bytes]] = {}
        for message in messages:
            exchange, key = message.exchange, message.routing_key
            if not exchange:
                found.messages.append(message)
            elif self.bindings.kind(exchange) == "fanout":
                found.announcements.append(Announcement(self.bindings.topic(exchange, key), message.document))
            else:
                if exchange not in tables:
                    tables[exchange] = self._table(link, exchange)
                queues = self.bindings.matching(tables[exchange], exchange, key)
                found.messages.extend(_copies(message, queues or self._lost(exchange, key)))
        return found

    def queues_of(self, link: Link, exchange: str, routing_key: str) -> list[str]:
        """The queues that an exchange, which is no fanout, hands a routing key to; possibly none."""
        queues = self.bindings.matching(self._table(link, exchange), exchange, routing_key)
        return queues or ([self._nowhere] if self._nowhere else [])

    def declare(self, link: Link, queues: Iterable[str]) -> None:
        """Write the bindings of queues, whether or not that was done before.

        Whoever consumes queues that expire does it again well within `BINDING_TTL_MIN_MS`.
        """
        request = _Request()
        for queue in queues:
            self._bind(request, queue)
            self._declared.add(queue)
        if request.args:
            self._complain(link.run(PUBLISH, request.keys, request.args))

    def keep(self, link: Link, queues: Iterable[str]) -> None:
        """Say that queues which expire are in use: whoever consumes them does it again and again."""
        request = _Request()
        for queue, expires_ms in self._expiring(queues):
            request.add(*self.bindings.operations(queue))
            self._expire(request, queue, expires_ms)
        if request.args:
            self._complain(link.run(PUBLISH, request.keys, request.args))

    def _bind(self, request: _Request, queue: str) -> None:
        request.add(*self.bindings.operations(queue))
        request.add((self._keys.queues,), (b"Q", b"1", queue))

    def _table(self, link: Link, exchange: str) -> list[bytes]:
        self.declare(link, [q for q in self.bindings.declared_on(exchange) if q not in self._declared])
        found: list[bytes] = list(link.call(b"SMEMBERS", self.bindings.table(exchange)))
        if not found:
            # Somebody emptied the server since. What this process knows of, it declares again.
            self.declare(link, self.bindings.declared_on(exchange))
            found = list(link.call(b"SMEMBERS", self.bindings.table(exchange)))
        return found

    def _lost(self, exchange: str, key: str) -> list[str]:
        if self._nowhere:
            return [self._nowhere]
        raise Unroutable(exchange, key, f"there is no binding in {self.bindings.table(exchange)}")

    def _by_list(self, messages: Sequence[Outgoing]) -> dict[bytes, list[bytes]]:
        lists: dict[bytes, list[bytes]] = {}
        for message in messages:
            if message.due_wall_s is None:
                place = self._keys.list_of(message.queue, message.priority)
                lists.setdefault(place, []).append(message.document)
        return lists

    def _delay(self, request: _Request, messages: Sequence[Outgoing]) -> None:
        schedules: dict[str, list[str | bytes]] = {}
        for message in messages:
            if message.due_wall_s is not None:
                step = self._keys.step_of(message.priority)
                member = b"%s:%d:0\n%s" % (fresh_id().encode("ascii"), step, message.document)
                schedules.setdefault(message.queue, []).extend((repr(message.due_wall_s), member))
        for queue, scored in schedules.items():
            request.add(
                (self._keys.due(queue), self._keys.due_queues), (b"Z", str(len(scored) + 1), queue, *scored)
            )

    def _expiring(self, queues: Iterable[str]) -> list[tuple[str, int]]:
        found = ((queue, self.bindings.expires_ms(queue)) for queue in queues)
        return [(queue, expires_ms) for queue, expires_ms in found if expires_ms is not None]

    def _expire(self, request: _Request, queue: str, expires_ms: int) -> None:
        for step in self._keys.steps:
            request.add((self._keys.list_of(queue, step),), (b"X", b"1", str(expires_ms)))

    def _remember(self, messages: Sequence[Outgoing]) -> None:
        if max(len(self._declared), len(self._places)) > _PLACES_MAX:
            self._declared.clear()
            self._places.clear()
        for message in messages:
            self._declared.add(message.queue)
            if self.bindings.expires_ms(message.queue) is None:
                place = self._keys.list_of(message.queue, message.priority)
                self._places[message.queue, message.priority] = place

    @staticmethod
    def _complain(refused: list[bytes]) -> None:
        for key in refused:
            _log.error(
                "%r is no set of bindings; delete or rename it, or publishers cannot find the queues "
                "of its exchange",
                key,
            )


class _Request:
    """The keys and arguments of one call of publish.lua."""

    def __init__(self) -> None:
        self.keys: list[str | bytes] = []
        self.args: list[str | bytes] = []

    def add(self, keys: Iterable[str | bytes], args: Iterable[str | bytes]) -> None:
        self.keys.extend(keys)
        self.args.extend(args)

    def push(self, lists: Mapping[bytes, list[bytes]]) -> None:
        for place, documents in lists.items():
            self.add((place,), (b"L", str(len(documents)), *documents))


def _copies(message: Outgoing, queues: Sequence[str]) -> list[Outgoing]:
    return [
        Outgoing(
            queue,
            message.document if at == 0 else retagged(message.document),
            message.priority,
            message.due_wall_s,
        )
        for at, queue in enumerate(queues)
    ]
