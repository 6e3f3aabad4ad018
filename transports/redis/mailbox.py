"""Remote control on Redis, exactly as kombu's pidbox does it (interop §11.1, §5.6).

Requests are published: whoever listens at that moment hears them. Replies go to the list of a client,
which is bound in the table of the reply exchange for as long as it asks.
"""

from __future__ import annotations

import logging
import random
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

import hiredis

from ..base import Message, QueueDeclaration
from ..envelope import MalformedEnvelope, decode, encode
from ..errors import BrokerUnavailable, TransportError, Unacceptable
from ..mailbox import RECEIVED_MAX, USUAL_QUEUE, ControlQueue, reply_exchange, reply_queue, request_exchange
from ..readable import wait_readable
from ..timed_poll import TimedPoll
from .bindings import Bindings
from .faults import ServerError, pause_before_reconnect_s, unreachable
from .keys import Keys
from .link import Link
from .pool import Pool
from .publish import Publisher
from .scripts import PUBLISH
from .settings import RedisSettings
from .wire import Wire, pack

MESSAGE_BYTES_MAX: Final = 16 << 20
_HEALTH_S: Final = 15.0
_ANSWER_S: Final = 2.0
# What a worker answers to a client that goes meanwhile stays no longer.
_REPLY_KEPT_MS: Final = 10_000

_log = logging.getLogger(__name__)


class _Reader:
    """Takes documents apart; what is none is dropped, and logged once."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._said = False

    def read(self, document: bytes) -> list[Message]:
        """The message, if it is one."""
        try:
            return [decode(document, document_bytes_max=MESSAGE_BYTES_MAX).message()]
        except (MalformedEnvelope, ValueError) as error:
            if not self._said:
                self._said = True
                _log.warning("%s: what is no message of remote control is dropped: %s", self._where, error)
        return []


class RequestMailbox:
    """Hears what is published to all workers; implements `transports.mailbox.Mailbox`.

    The descriptor is an epoll of the connection and of a timer, so it outlives connections.

    :param pattern: the channel.
    """

    def __init__(self, settings: RedisSettings, pattern: str) -> None:
        self._settings = settings
        self._pattern = pattern
        self._link = Link(settings, name=f"{settings.client_name or 'prefork'}-control")
        self._wire: Wire | None = None
        # When the server was asked whether it is there, 0.0 once it has answered; and when that was last.
        self._asked_mono_s = 0.0
        self._checked_mono_s = 0.0
        self._failures = 0
        self._retry_mono_s = 0.0
        self._reader = _Reader(f"redis at {settings.shown}")
        self._poll = TimedPoll()
        try:
            self._connect()
        except TransportError:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor, as in `Mailbox.fileno`."""
        return self._poll.fileno()

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, as in `Mailbox.receive`."""
        ends_mono_s = monotonic() + timeout_s
        while not self._poll.closed:
            found = self._take()
            left_s = ends_mono_s - monotonic()
            if found or left_s <= 0.0:
                return found
            wait_readable([self._poll.fileno()], left_s)
        return []

    def _take(self) -> list[Message]:
        if self._wire is None and monotonic() < self._retry_mono_s:
            raise BrokerUnavailable(f"redis at {self._settings.shown}: the control connection is broken")
        self._poll.timer.clear()
        wire = self._wire
        try:
            if wire is None:
                wire = self._connect()
            found = self._hear(wire)
            self._check(wire)
        except (OSError, hiredis.HiredisError, TransportError) as error:
            raise self._lost(error) from None
        return found

    def _hear(self, wire: Wire) -> list[Message]:
        found: list[Message] = []
        wire.begin(_ANSWER_S)
        while len(found) < RECEIVED_MAX and wire.can_read():
            item = wire.read()
            self._asked_mono_s = 0.0  # whatever it says, it is there
            if isinstance(item, ServerError):
                raise ConnectionError(item.text)
            if isinstance(item, list) and item and item[0] == b"pmessage":
                found += self._reader.read(item[3])
        if len(found) == RECEIVED_MAX:
            self._poll.timer.after(0.0)  # there may be more, which the parser holds already
        return found

    def _check(self, wire: Wire) -> None:
        """Ask a silent server whether it is there; it has until the next time to answer."""
        now_mono_s = monotonic()
        if self._asked_mono_s and now_mono_s - self._asked_mono_s > _HEALTH_S:
            raise ConnectionError(f"silent for {_HEALTH_S:g} s")
        if not self._asked_mono_s and now_mono_s - self._checked_mono_s >= _HEALTH_S:
            wire.begin(_ANSWER_S)
            wire.write(pack((b"PING",)))
            self._asked_mono_s = self._checked_mono_s = now_mono_s
        if not wire.can_read():
            self._poll.timer.after(_HEALTH_S)

    def _connect(self) -> Wire:
        wire = self._link.connection(protocol=2)
        try:
            wire.begin(self._settings.socket_timeout_s)
            wire.write(pack((b"PSUBSCRIBE", self._pattern.encode("utf-8", "surrogateescape"))))
            reply = wire.read()
            if isinstance(reply, ServerError):
                raise unreachable(wire.where, f"PSUBSCRIBE was refused: {reply.text}")
        except (OSError, hiredis.HiredisError) as error:
            wire.close()
            raise unreachable(wire.where, error) from None
        except BaseException:
            wire.close()
            raise
        self._wire = wire
        self._poll.watch(wire.fileno())
        self._asked_mono_s, self._checked_mono_s = 0.0, monotonic()
        self._failures = 0
        self._poll.timer.after(_HEALTH_S)
        return wire

    def _lost(self, error: Exception) -> TransportError:
        self._drop()
        self._failures += 1
        pause_s = pause_before_reconnect_s(self._failures, random.random())
        self._retry_mono_s = monotonic() + pause_s
        self._poll.timer.after(pause_s)
        return error if isinstance(error, TransportError) else unreachable(self._settings.shown, error)

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._poll.unwatch()
            wire.close()

    def close(self) -> None:
        """Stop listening, as in `Mailbox.close`."""
        if self._poll.closed:
            return
        self._drop()
        self._poll.close()


class ReplyMailbox:
    """The list of a client; implements `transports.mailbox.Mailbox`.

    :param place: the list.
    """

    def __init__(
        self, settings: RedisSettings, bindings: Bindings, declared: QueueDeclaration, place: bytes
    ) -> None:
        self._link = Link(settings, name=f"{settings.client_name or 'prefork'}-replies")
        self._settings = settings
        self._place = place
        self._table = bindings.table(declared.exchange)
        self._member = bindings.member(declared)
        self._reader = _Reader(f"redis at {settings.shown}")
        self._closed = False

    def bind(self, operation: tuple[list[str], list[str]]) -> None:
        """Make the list known to whoever answers."""
        self._link.run(PUBLISH, *operation)

    def fileno(self) -> int:
        """None: a list can only be asked."""
        return -1

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, as in `Mailbox.receive`."""
        if self._closed:
            return []
        documents: list[bytes] = []
        if timeout_s > 0:
            answer_s = timeout_s + self._settings.socket_timeout_s
            first = self._link.call(b"BRPOP", self._place, round(timeout_s, 3), timeout_s=answer_s)
            if not first:
                return []
            documents.append(first[1])
        # One by one: a number of them is only understood by servers of version 6.2.
        asked = self._link.many([(b"RPOP", self._place)] * (RECEIVED_MAX - len(documents)))
        documents += [document for document in asked if document is not None]
        return [message for document in documents for message in self._reader.read(document)]

    def close(self) -> None:
        """Forget the list, as in `Mailbox.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            self._link.many([(b"SREM", self._table, self._member), (b"DEL", self._place)])
        except TransportError as error:
            _log.debug("the reply list is left to expire: %s", error)
        self._link.close()


class RedisControls:
    """The part of the Redis transport that implements `transports.mailbox.Controls`."""

    _settings: RedisSettings
    _keys: Keys
    _pool: Pool
    _publisher: Publisher
    _opened: WeakSet[Any]

    def mailbox(self, exchange: str, node: str, queue: ControlQueue = USUAL_QUEUE) -> RequestMailbox:
        """Listen for requests, as in `Controls.mailbox`."""
        channel = self._publisher.bindings.topic(request_exchange(exchange), "")
        found = RequestMailbox(self._settings, channel)
        self._opened.add(found)
        return found

    def broadcast(self, exchange: str, message: Message) -> None:
        """Send a request to every listener, as in `Controls.broadcast`."""
        target = request_exchange(exchange)
        document = _document(message, target, "")
        with self._pool.link() as link:
            link.call(b"PUBLISH", self._publisher.bindings.topic(target, ""), document)

    def replies(self, exchange: str, address: str, queue: ControlQueue = USUAL_QUEUE) -> ReplyMailbox:
        """Listen for replies, as in `Controls.replies`."""
        target = reply_exchange(exchange)
        expires_ms = max(1, int(queue.expires_s * 1000))
        declared = QueueDeclaration(
            reply_queue(target, address), target, "direct", address, arguments={"x-expires": expires_ms}
        )
        bindings = self._publisher.bindings
        place = self._keys.list_of(declared.name, 0)
        found = ReplyMailbox(self._settings, bindings, declared, place)
        self._opened.add(found)
        found.bind(bindings.operation(declared))
        return found

    def reply(self, exchange: str, address: str, message: Message) -> None:
        """Answer one client, as in `Controls.reply`."""
        bindings = self._publisher.bindings
        usual = QueueDeclaration(reply_queue(exchange, address), exchange, "direct", address)
        document = _document(message, exchange, address)
        with self._pool.link() as link:
            table = bindings.table(exchange)
            names = [usual.name]
            if not link.call(b"SISMEMBER", table, bindings.member(usual)):
                names = bindings.matching(link.call(b"SMEMBERS", table), exchange, address)
            for name in names:
                place = self._keys.list_of(name, 0)
                link.many([(b"LPUSH", place, document), (b"PEXPIRE", place, _REPLY_KEPT_MS)])


def _document(message: Message, exchange: str, routing_key: str) -> bytes:
    delivery_info = {"exchange": exchange, "routing_key": routing_key}
    properties = {**message.properties, "delivery_info": delivery_info}
    document = encode(
        Message(message.body, message.content_type, message.content_encoding, message.headers, properties)
    )
    if len(document) > MESSAGE_BYTES_MAX:
        raise Unacceptable(
            f"a message of remote control of {len(document)} bytes, of at most {MESSAGE_BYTES_MAX}: "
            "send it in parts"
        )
    return document
