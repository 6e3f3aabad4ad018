"""One connection and one channel of kombu, opened when needed and anew after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic as mono_s
from typing import Any, TypeVar

from kombu import connection as kombu_connection
from kombu import entity as kombu_entity
from kombu.transport import virtual

from ..base import QueueDeclaration
from ..errors import BrokerUnavailable
from ..url import redact
from .address import Address, missing_library
from .documents import Parts, Received, received
from .filesystem import WholeFilesTransport

_T = TypeVar("_T")

_COMPRESSION = "compression"
# A database has two tables and a row made for a queue; each may be another's.
_RACES = 3
# As long as SQLite waits for its lock.
_RACE_S = 5.0
_DATABASES = ("sqla", "sqlalchemy")

# kombu declares no types.
_Connection: Any = kombu_connection.Connection
_Exchange: Any = kombu_entity.Exchange
_Queue: Any = kombu_entity.Queue
_Message: Any = virtual.Message


class CompressedMessage(_Message):  # type: ignore[misc]
    """A message whose body stays as it is: what it may grow to is checked where it is decoded."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        headers = dict(payload.get("headers") or {})
        compression = headers.pop(_COMPRESSION, None)
        super().__init__({**payload, "headers": headers}, channel=channel, **kwargs)
        if compression is not None:
            self.headers[_COMPRESSION] = compression


class Line:
    """Used by one thread at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Any = None
        self._channel: Any = None
        self._declared: set[str] = set()

    def still_holds(self, message: Received) -> bool:
        """Whether a message can be acknowledged: what a channel of AMQP gave, it alone can settle."""
        channel = message.handle.channel
        return channel is self._channel or isinstance(channel, virtual.Channel)

    def publish(self, queue: str, parts: Parts) -> None:
        """Put a message into a queue.

        :raises BrokerUnavailable: with `outcome_unknown` when it may have been stored.
        """
        self.declare(queue)
        with self._translated(outcome_unknown=True):
            channel = self._open()
            properties = dict(parts.properties)
            properties.setdefault("delivery_mode", 2)
            message = channel.prepare_message(
                parts.body,
                priority=parts.priority,
                content_type=parts.content_type,
                content_encoding=parts.content_encoding,
                headers=dict(parts.headers),
                properties=properties,
            )
            channel.basic_publish(message, exchange="", routing_key=queue)

    def get(self, queue: str) -> Received | None:
        """Read the next message of a queue, to be acknowledged later."""
        self.declare(queue)
        with self._translated():
            channel = self._open()
            found = channel.basic_get(queue)
            if found is None:
                return None
            handle = channel.message_to_python(found)
            if not isinstance(handle, CompressedMessage) and not handle.errors:
                handle.headers.pop(_COMPRESSION, None)  # kombu has decompressed it
            return received(handle, queue)

    def acknowledge(self, message: Received) -> None:
        """Let a message go."""
        with self._translated():
            message.handle.ack()

    def give_back(self, message: Received) -> None:
        """Return a message by the broker's own means."""
        with self._translated():
            message.handle.requeue()

    def declare(self, queue: str) -> None:
        """Make a queue, if there is none."""
        if self._channel is None or queue not in self._declared:
            self._raced(lambda: self._declare(self._open(), queue))

    def size(self, queue: str) -> int:
        """How many messages wait in a queue; 0 for one that nobody has made."""
        return self._raced(lambda: self._size(self._open(), queue))

    def purge(self, queue: str) -> int:
        """Drop what waits in a queue."""
        waiting = self.size(queue)
        if not waiting:
            return 0
        with self._translated():
            dropped = self._open().queue_purge(queue)
            return waiting if dropped is None else int(dropped)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with self._translated():
                connection.release()

    # -- inside -------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = _connection(self._address)
            # Each server once: whoever called tries again by himself.
            servers = self._address.url.count(";") + 1
            self._connection.ensure_connection(max_retries=servers, interval_start=0, interval_step=0)
        if self._channel is None:
            self._channel = self._connection.channel()
            if isinstance(self._channel, virtual.Channel):
                self._channel.Message = CompressedMessage
        return self._channel

    def _declare(self, channel: Any, queue: str) -> None:
        if queue in self._declared:
            return
        declaration = self._address.declarations.get(queue) or QueueDeclaration(queue)
        _kombu_queue(declaration).bind(channel).declare()
        self._declared.add(queue)

    def _size(self, channel: Any, queue: str) -> int:
        try:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except self._connection.channel_errors:
            self._forget_channel()
            return 0

    def _raced(self, act: Callable[[], _T]) -> _T:
        """Do what may be the first that a database is used for.

        Another process may make in the same moment what is made here, which the database refuses; then it
        is found the next time.
        """
        end_mono_s = mono_s() + _RACE_S
        for races_left in range(_RACES, -1, -1):
            try:
                with self._translated():
                    return act()
            except BrokerUnavailable:
                # Who is only away is not asked again: whoever called tries again by himself.
                raced = self._address.scheme in _DATABASES and self._connection is not None
                if not (raced and races_left) or mono_s() >= end_mono_s:
                    raise
        raise AssertionError("unreachable: the last race is not tried again")

    def _forget_channel(self) -> None:
        # Not closed: kombu would put back what it believes to be unacknowledged. Messages that are
        # held keep the channel that they came from.
        self._channel = None
        self._declared.clear()

    @contextmanager
    def _translated(self, *, outcome_unknown: bool = False) -> Iterator[None]:
        """Everything that a library raises means that the broker did not do it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - each library that kombu uses has errors of its own
            if not isinstance(self._channel, virtual.Channel):
                self._connection = None
            self._forget_channel()
            text = redact(str(error)).strip().partition("\n")[0][:300]
            raise BrokerUnavailable(
                f"{self._address.shown}: {type(error).__name__}: {text}", outcome_unknown=outcome_unknown
            ) from None


def check_library(address: Address) -> None:
    """Have kombu look for the library that a transport needs; connects to nothing.

    :raises UnsupportedTransport: it is not installed.
    """
    try:
        _connection(address).transport  # noqa: B018  (kombu makes it when it is first asked for)
    except ImportError as error:
        raise missing_library(address.scheme, error) from error


def _connection(address: Address) -> Any:
    return _Connection(
        address.url,
        transport_options=dict(address.options),
        transport=WholeFilesTransport if address.scheme == "filesystem" else None,
        ssl=address.ssl or False,
        **_given(connect_timeout=address.connect_timeout_s, login_method=address.login_method),
    )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _kombu_queue(declaration: QueueDeclaration) -> Any:
    exchange: Any = None
    arguments: Mapping[str, Any] = declaration.exchange_arguments
    if declaration.exchange:
        exchange = _Exchange(
            declaration.exchange,
            type=declaration.exchange_type,
            durable=declaration.exchange_durable,
            auto_delete=declaration.exchange_auto_delete,
            arguments=dict(arguments) or None,
        )
    return _Queue(
        declaration.name,
        exchange=exchange,
        routing_key=declaration.routing_key,
        durable=declaration.durable,
        auto_delete=declaration.auto_delete,
        exclusive=declaration.exclusive,
        queue_arguments=dict(declaration.arguments) or None,
    )
