"""Kombu's exchanges on Redis: binding tables, and which queues a routing key leads to.

Facts: interop §5.4 (tables, members, matching) and §5.6 (fanout topics). A table is a set of
members ``routing key, pattern, queue``; which kind of exchange it belongs to is known only to the
processes that declare it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

import msgspec

from ..base import QueueDeclaration
from ..declarations import named
from ..identifiers import fresh_id
from .settings import RedisSettings

BINDING_TTL_FACTOR = 2
BINDING_TTL_MIN_MS = 3_600_000
_PATTERNS_MAX = 1000
_WORDS = {"*": r"[^\.]+", "#": ".*?"}


class _Tagged(msgspec.Struct):
    delivery_tag: str


class _Copied(msgspec.Struct):
    properties: _Tagged


_read_tag = msgspec.json.Decoder(_Copied).decode


class Bindings:
    """What this process knows of queues and exchanges, and how their tables are written and read.

    Holds no connection; safe to use from several threads.

    :param declarations: queue names -> `QueueDeclaration`; any other queue is bound to a direct
        exchange of its own name.
    """

    def __init__(self, settings: RedisSettings, declarations: Mapping[str, QueueDeclaration]) -> None:
        self._prefix = settings.global_keyprefix
        self._sep = settings.sep
        self._fanout_prefix = _fanout_prefix(settings.fanout_prefix, settings.db)
        self._fanout_patterns = settings.fanout_patterns
        self._declarations = dict(declarations)
        self._kinds = {
            found.exchange: found.exchange_type for found in self._declarations.values() if found.exchange
        }
        # Compiled patterns of topics. Written by any thread; a lost write is compiled again.
        self._compiled: dict[str, re.Pattern[str] | None] = {}

    def declaration(self, queue: str) -> QueueDeclaration:
        """How a queue is declared."""
        found = named(queue, self._declarations)
        return found or QueueDeclaration(queue, exchange=queue, routing_key=queue)

    def declared_on(self, exchange: str) -> list[str]:
        """The queues that this process declares on an exchange."""
        return [name for name, found in self._declarations.items() if found.exchange == exchange]

    def kind(self, exchange: str) -> str:
        """direct, topic or fanout; direct when this process does not declare the exchange."""
        return self._kinds.get(exchange, "direct")

    def expires_ms(self, queue: str) -> int | None:
        """After how long without use the queue goes (``x-expires``); None keeps it."""
        found = self._declarations.get(queue)
        return _expires_ms(found) if found is not None else None

    def table(self, exchange: str) -> str:
        """The key of an exchange's table."""
        return f"{self._prefix}_kombu.binding.{exchange}"

    def permanent_table(self, exchange: str) -> str:
        """The key of the bindings that keep a table from being swept."""
        return f"{self._prefix}_kombu.binding_permanent.{exchange}"

    @property
    def deadlines(self) -> str:
        """The key of the times at which tables of expiring queues may be swept."""
        return f"{self._prefix}_kombu.binding_deadlines"

    def member(self, declaration: QueueDeclaration) -> str:
        """The member of a table that binds a queue."""
        key = declaration.routing_key
        pattern = topic_pattern(key) if declaration.exchange_type == "topic" else ""
        return self._sep.join((key, pattern, declaration.name))

    def operations(self, queue: str) -> tuple[list[str], list[str]]:
        """What publish.lua needs to bind a queue: its keys and its arguments."""
        declared = self.declaration(queue)
        return self.operation(declared) if declared.exchange else ([], [])

    def operation(self, declared: QueueDeclaration) -> tuple[list[str], list[str]]:
        """The same for a declaration that names an exchange."""
        table, member = self.table(declared.exchange), self.member(declared)
        expires_ms = _expires_ms(declared)
        if expires_ms is None:
            return [table, self.permanent_table(declared.exchange)], ["B", "1", member]
        ttl_ms = max(expires_ms * BINDING_TTL_FACTOR, BINDING_TTL_MIN_MS)
        return [table, self.deadlines], ["E", "3", member, declared.exchange, str(ttl_ms)]

    def matching(self, members: Iterable[bytes], exchange: str, routing_key: str) -> list[str]:
        """The queues of a table that a routing key leads to, sorted; not for fanout exchanges.

        :param members: of the table, as the server returns them; what is no member is passed over.
        """
        topic = self.kind(exchange) == "topic"
        found: set[str] = set()
        for member in members:
            parts = member.decode("utf-8", "surrogateescape").split(self._sep)
            if len(parts) != 3 or not parts[2]:
                continue
            key, pattern, queue = parts
            if self._matches(pattern, routing_key) if topic else key == routing_key:
                found.add(queue)
        return sorted(found)

    def _matches(self, pattern: str, routing_key: str) -> bool:
        if pattern not in self._compiled:
            if len(self._compiled) >= _PATTERNS_MAX:
                self._compiled.clear()
            try:
                self._compiled[pattern] = re.compile(pattern)
            except re.error:
                self._compiled[pattern] = None  # whoever wrote it cannot match with it either
        compiled = self._compiled[pattern]
        return compiled is not None and compiled.match(routing_key) is not None

    def topic(self, exchange: str, routing_key: str) -> str:
        """The channel on which a fanout message is published."""
        head = f"{self._prefix}{self._fanout_prefix}{exchange}"
        return f"{head}/{routing_key}" if routing_key and self._fanout_patterns else head

    def subscription(self, declaration: QueueDeclaration) -> str:
        """The pattern of channels that a queue of a fanout exchange listens to."""
        return self.topic(declaration.exchange, declaration.routing_key.replace("#", "*"))


def topic_pattern(binding_key: str) -> str:
    """The regular expression that stands for a topic's binding key, character by character kombu's."""
    escaped = "".join(
        c if c.isalnum() or c in ".#*" else "\\000" if c == "\0" else "\\" + c for c in binding_key
    )
    return "^" + r"\.".join(_WORDS.get(word, word) for word in escaped.split(".")) + "$"


def retagged(document: bytes) -> bytes:
    """A copy of a document with a delivery tag of its own (interop §5.9, 5).

    What has no tag that could be replaced is copied as it is.
    """
    try:
        old = _read_tag(document).properties.delivery_tag
    # ValueError: not UTF-8. Whoever reads the copy says what is wrong with it.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return document
    quoted, fresh = json.dumps(old).encode(), json.dumps(fresh_id()).encode()
    if document.count(quoted) == 1:
        return document.replace(quoted, fresh)
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return document
    found["properties"]["delivery_tag"] = json.loads(fresh)
    return json.dumps(found).encode("ascii")


def _expires_ms(declaration: QueueDeclaration) -> int | None:
    value = declaration.arguments.get("x-expires")
    return None if value is None else int(value)


def _fanout_prefix(setting: bool | str, db: int) -> str:
    if setting is True:
        return f"/{db}."
    return setting.replace("{db}", str(db)) if setting else ""
