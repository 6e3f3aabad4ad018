"""Gives back what dead kombu consumers held: kombu's own rules, without its ways of losing messages.

Facts: interop §5.7 (what an entry is) and §5.8 (who may restore it, when, and in which order). It
differs from kombu in this: an entry is removed only together with the push that replaces it, and only
if it is still the one that was read; what no binding leads anywhere stays where it is, and is
reported. Nothing younger than the visibility timeout is touched, by the slower of the two clocks.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from time import monotonic, time
from typing import Any, NamedTuple

from ..envelope import clamped_priority
from .bindings import retagged
from .faults import WrongKeyType
from .keys import Keys, decode, encode
from .link import Link
from .publish import Publisher
from .scripts import RESTORE, UNLOCK
from .settings import RedisSettings

RESTORED_PER_TURN = 1000
_CHUNK = 50

_log = logging.getLogger("prefork.transports.redis")


class Foreign(NamedTuple):
    """One entry of kombu's ``unacked``, read.

    :param document: the message, marked as redelivered.
    """

    document: bytes
    exchange: str
    routing_key: str
    priority: int


class Restorer:
    """Restores, every now and then, what lies in kombu's structures for too long. Used by one thread."""

    def __init__(self, settings: RedisSettings, keys: Keys, publisher: Publisher) -> None:
        self._settings = settings
        self._keys = keys
        self._publisher = publisher
        self._entries = keys.prefix + encode(settings.unacked_key)
        self._index = keys.prefix + encode(settings.unacked_index_key)
        self._mutex = keys.prefix + encode(settings.unacked_mutex_key)
        self._next_mono_s = 0.0
        self._said: set[str] = set()

    def turn(self, link: Link) -> list[str]:
        """Do it if it is time again; returns lines for an operator, each problem once."""
        now_mono_s = monotonic()
        if now_mono_s < self._next_mono_s:
            return []
        # Kombu looks once in so many intervals of its timer.
        settings = self._settings
        self._next_mono_s = (
            now_mono_s + settings.unacked_restore_interval_s * settings.unacked_restore_throttle
        )
        restored, problems = self.restore(link)
        lines = [line for line in problems if line not in self._said]
        self._said.update(lines)
        if restored:
            lines.append(
                f"restored {restored} messages that other consumers had held for more than "
                f"{self._settings.visibility_timeout_s:g} s (visibility_timeout)"
            )
        return lines

    def restore(self, link: Link) -> tuple[int, list[str]]:
        """Restore what is old enough; returns how many, and what could not be.

        Does nothing while somebody else is at it.
        """
        if not link.call(b"EXISTS", self._index):
            return 0, []
        with self._locked(link) as ours:
            return self._sweep(link) if ours else (0, [])

    @contextmanager
    def _locked(self, link: Link) -> Iterator[bool]:
        token = uuid.uuid4().hex
        expire_ms = int(self._settings.unacked_mutex_expire_s * 1000)
        ours = link.call(b"SET", self._mutex, token, b"NX", b"PX", expire_ms) is not None
        try:
            yield ours
        finally:
            if ours:
                link.run(UNLOCK, [self._mutex], [token])

    def _sweep(self, link: Link) -> tuple[int, list[str]]:
        seconds, _micros = link.call(b"TIME")
        ceiling = repr(min(time(), float(seconds)) - self._settings.visibility_timeout_s)
        limit = min(self._settings.unacked_restore_limit or RESTORED_PER_TURN, RESTORED_PER_TURN)
        restored = seen = left = 0
        problems: dict[str, None] = {}
        while seen < limit:
            want = min(_CHUNK, limit - seen)
            tags = link.call(
                *(b"ZRANGE", self._index, ceiling, b"0", b"BYSCORE", b"REV", b"LIMIT", left, want)
            )
            if not tags:
                break
            for tag, entry in zip(tags, link.call(b"HMGET", self._entries, *tags), strict=True):
                seen += 1
                outcome = self._restore_one(link, tag, entry, ceiling)
                if isinstance(outcome, str):
                    left += 1
                    problems[outcome] = None
                else:
                    restored += outcome
        return restored, list(problems)

    def _restore_one(self, link: Link, tag: bytes, entry: bytes | None, ceiling: str) -> int | str:
        """Restore one entry; how many messages that was, or why it stays where it is."""
        where = decode(self._entries)
        lists: list[bytes] = []
        documents: list[bytes] = []
        if entry is not None:
            found = read_entry(entry)
            if found is None:
                return f"{where}: the entry {decode(tag)!r} is no message of kombu's; look at it (HGET)"
            queues = self._queues(link, found)
            if not queues:
                return (
                    f"{where}: messages of exchange {found.exchange!r} with routing key "
                    f"{found.routing_key!r} stay there, because no queue is bound for it; declare it"
                )
            documents = [found.document, *(retagged(found.document) for _ in queues[1:])]
            lists = [self._keys.list_of(queue, found.priority) for queue in queues]
        digest = sha1(entry or b"", usedforsecurity=False).hexdigest()
        try:
            done = link.run(RESTORE, [self._entries, self._index, *lists], [tag, ceiling, digest, *documents])
        except WrongKeyType as error:
            return str(error)
        return int(done and bool(lists))

    def _queues(self, link: Link, found: Foreign) -> list[str]:
        if not found.exchange:
            name = found.routing_key or self._settings.deadletter_queue
            return [name] if name else []
        if self._publisher.bindings.kind(found.exchange) == "fanout":
            return []  # the list of such a queue is read by nobody
        return self._publisher.queues_of(link, found.exchange, found.routing_key)


def read_entry(entry: bytes) -> Foreign | None:
    """Take an entry apart, and mark its message as redelivered; None if it is none."""
    try:
        payload, exchange, routing_key = json.loads(entry)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    headers, properties = payload.get("headers"), payload.get("properties")
    if not isinstance(properties, dict):
        return None
    if isinstance(headers, dict):
        headers["redelivered"] = True
    info: Any = properties.get("delivery_info")
    if isinstance(info, dict):
        info["redelivered"] = True
    return Foreign(
        json.dumps(payload).encode("ascii"),
        str(exchange or ""),
        str(routing_key or ""),
        clamped_priority(properties.get("priority")),
    )
