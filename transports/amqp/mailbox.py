"""Remote control on RabbitMQ, exactly as kombu's pidbox does it (interop §6.3, §11.1)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..base import Message
from ..errors import BrokerUnavailable, TransportError, Unroutable
from ..mailbox import (
    RECEIVED_MAX,
    USUAL_QUEUE,
    ControlQueue,
    reply_exchange,
    reply_queue,
    request_exchange,
    request_queue,
)
from ..timed_poll import TimedPoll
from .codec import PROPERTIES, Undecodable, decode_properties
from .errors import Refused
from .frames import CANCEL, DELIVER, Method, ack_frame, consume_frame, read_arrival
from .link import CHANNEL_ERRORS, Link
from .parcels import Parcel
from .publisher import Publisher
from .settings import AmqpSettings
from .wire import Wire

_HEARTBEAT_S: Final = 60
_BEAT_EVERY_S: Final = 15.0
_RETRY_S: Final = 1.0
_WRITE_S: Final = 5.0
_CONSUMER_TAG: Final = "control"
_RESOURCE_LOCKED: Final = 405

_log = logging.getLogger("prefork.amqp")


class AmqpMailbox:
    """Implements `transports.mailbox.Mailbox` by a queue on a connection of its own.

    The descriptor is an epoll of the connection and of a timer, so it outlives connections; the timer
    says when to try again, and when to send a heartbeat: without those, the broker would keep an
    exclusive queue, and with it the name, of a host that vanished.

    :param exchange: to bind to, of `exchange_type`.
    """

    def __init__(
        self,
        settings: AmqpSettings,
        exchange: str,
        exchange_type: str,
        queue: str,
        routing_key: str,
        how: ControlQueue,
    ) -> None:
        self._settings = settings
        self._exchange = exchange
        self._exchange_type = exchange_type
        self._queue = queue
        self._routing_key = routing_key
        self._how = how
        self._link = Link(settings, f"control {queue}", heartbeat_s=_HEARTBEAT_S)
        self._wire: Wire | None = None
        self._channel_id = 0
        self._inbox: deque[tuple[int, Message]] = deque()
        self._retry_mono_s = 0.0
        self._beat_mono_s = 0.0
        self._cancelled = False
        self._poll = TimedPoll()
        try:
            self._listen()
        except TransportError:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor, as in `Mailbox.fileno`."""
        return self._poll.fileno()

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, as in `Mailbox.receive`.

        It is acknowledged at once, which lets more come: the broker pushes no more than one call
        returns, so that nothing waits here while the descriptor is silent.
        """
        if self._poll.closed:
            return []
        if self._wire is None and monotonic() < self._retry_mono_s:
            raise BrokerUnavailable(f"the control connection to {self._settings.shown} is broken")
        self._poll.timer.clear()
        try:
            wire = self._listen()
            with self._link.guarded("reading requests"):
                return self._read(wire, monotonic() + timeout_s)
        except CHANNEL_ERRORS as error:
            self._lost()
            raise BrokerUnavailable(f"RabbitMQ closed the control channel: {error}") from error
        except TransportError:
            self._lost()
            raise

    def _read(self, wire: Wire, end_mono_s: float) -> list[Message]:
        while True:
            self._beat(wire)
            left_s = end_mono_s - monotonic()
            wire.pump(max(0.0, min(left_s, _BEAT_EVERY_S)))
            if self._cancelled:
                raise BrokerUnavailable(f"RabbitMQ cancelled the consumer of {self._queue!r}")
            if self._inbox:
                wire.write(ack_frame(self._channel_id, self._inbox[-1][0], multiple=True), _WRITE_S)
                found = [message for _, message in self._inbox]
                self._inbox.clear()
                return found
            if left_s <= 0:
                return []

    def _beat(self, wire: Wire) -> None:
        left_s = self._beat_mono_s + _BEAT_EVERY_S - monotonic()
        if left_s <= 0:
            wire.send_heartbeat()
            self._beat_mono_s, left_s = monotonic(), _BEAT_EVERY_S
        self._poll.timer.after(left_s)

    def _listen(self) -> Wire:
        """The connection, with the queue declared and its messages on their way here.

        :raises BrokerUnavailable: not to be had; the queue belongs to another worker.
        """
        if self._wire is not None:
            return self._wire
        wire = self._link.wire(monotonic() + self._settings.publish_timeout_s)
        try:
            with self._link.guarded("declaring a control queue"):
                self._declare(wire)
        except CHANNEL_ERRORS as error:
            self._link.drop()
            if error.code == _RESOURCE_LOCKED:
                raise BrokerUnavailable(
                    f"control queue {self._queue!r} belongs to another worker of this name: give each "
                    "a name of its own (--hostname)"
                ) from error
            raise BrokerUnavailable(f"RabbitMQ refused control queue {self._queue!r}: {error}") from error
        self._wire = wire
        self._poll.watch(wire.fileno())
        self._beat_mono_s = monotonic()
        self._poll.timer.after(_BEAT_EVERY_S)
        return wire

    def _declare(self, wire: Wire) -> None:
        channel, how = wire.channel(), self._how
        channel.exchange_declare(self._exchange, self._exchange_type, durable=False, auto_delete=False)
        channel.queue_declare(
            self._queue,
            # RabbitMQ 4 refuses what is neither durable nor exclusive. Nobody else declares this queue.
            durable=how.durable or not how.exclusive,
            exclusive=how.exclusive,
            auto_delete=not how.durable,
            arguments={"x-expires": int(how.expires_s * 1000), "x-message-ttl": int(how.ttl_s * 1000)},
        )
        channel.queue_bind(self._queue, self._exchange, self._routing_key)
        channel.basic_qos(0, RECEIVED_MAX, False)
        self._channel_id, self._cancelled = int(channel.channel_id), False
        self._inbox.clear()
        wire.take(self._channel_id, self._on_content, self._on_method)
        wire.write(consume_frame(self._channel_id, self._queue, _CONSUMER_TAG), _WRITE_S)

    def _lost(self) -> None:
        self._drop()
        self._retry_mono_s = monotonic() + _RETRY_S
        self._poll.timer.after(_RETRY_S)

    def _drop(self) -> None:
        self._wire = None
        self._poll.unwatch()
        self._link.drop()

    def close(self) -> None:
        """Stop listening, as in `Mailbox.close`. The queue goes with its connection, or its time."""
        if self._poll.closed:
            return
        self._poll.close()
        self._wire = None
        self._link.close()

    def _on_content(self, method: Method, arguments: bytes, header: bytes, body: bytes) -> None:
        if method != DELIVER:
            return
        try:
            properties = decode_properties(header, 12)
        except Undecodable as error:
            _log.warning("a control message with damaged properties is dropped: %s", error)
            return
        self._inbox.append((read_arrival(method, arguments).delivery_tag, _message(properties, body)))

    def _on_method(self, method: Method, payload: bytes) -> bool:
        if method != CANCEL:
            return False
        self._cancelled = True
        return True


def _message(properties: dict[str, Any], body: bytes) -> Message:
    headers = properties.pop("headers", None)
    return Message(
        body,
        str(properties.pop("content_type", None) or "application/data"),
        str(properties.pop("content_encoding", None) or "utf-8"),
        headers if isinstance(headers, dict) else {},
        properties,
    )


def _parcel(exchange: str, routing_key: str, message: Message) -> Parcel:
    properties = {name: value for name, value in message.properties.items() if name in PROPERTIES}
    properties["content_type"] = message.content_type
    properties["content_encoding"] = message.content_encoding
    properties["headers"] = message.headers
    return Parcel(exchange, routing_key, properties, message.body)


class AmqpControls:
    """The part of the AMQP transport that implements `transports.mailbox.Controls`."""

    _settings: AmqpSettings
    _publisher: Publisher
    _guard: threading.Lock

    def mailbox(self, exchange: str, node: str, queue: ControlQueue = USUAL_QUEUE) -> AmqpMailbox:
        """Listen for requests, as in `Controls.mailbox`."""
        return AmqpMailbox(
            self._settings, request_exchange(exchange), "fanout", request_queue(exchange, node), "", queue
        )

    def broadcast(self, exchange: str, message: Message) -> None:
        """Send a request to every worker, as in `Controls.broadcast`."""
        self._tell(_parcel(request_exchange(exchange), "", message), "fanout")

    def replies(self, exchange: str, address: str, queue: ControlQueue = USUAL_QUEUE) -> AmqpMailbox:
        """Listen for replies, as in `Controls.replies`."""
        place = reply_exchange(exchange)
        return AmqpMailbox(self._settings, place, "direct", reply_queue(place, address), address, queue)

    def reply(self, exchange: str, address: str, message: Message) -> None:
        """Answer one client, as in `Controls.reply`."""
        self._tell(_parcel(exchange, address, message), "direct")

    def _tell(self, parcel: Parcel, exchange_type: str) -> None:
        """Publish to whoever listens; nobody is as good as somebody."""

        def declare(_topology: Any, channel: Any) -> None:
            channel.exchange_declare(parcel.exchange, exchange_type, durable=False, auto_delete=False)

        try:
            self._declare_again_if_lost(declare)
            self._publisher.publish([parcel])
        except Unroutable:
            return
        except Refused as error:
            # Another kind of exchange has this name, such as a request may give for its replies.
            raise BrokerUnavailable(
                f"remote control cannot use exchange {parcel.exchange!r}: {error}"
            ) from error

    def _declare_again_if_lost(self, declare: Callable[[Any, Any], None]) -> None:
        """The connection may have been lost since it was used last; nothing has been sent over it yet."""
        link = self._publisher.link
        was_open, end_mono_s = link.is_open, monotonic() + self._settings.publish_timeout_s
        try:
            self._publisher.declare(declare)
        except BrokerUnavailable:
            if not was_open or link.is_open or monotonic() >= end_mono_s:
                raise
            self._publisher.declare(declare)
