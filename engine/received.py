"""What receivers of signals are given about a message: read only, and made only when somebody listens.

The names are those that receivers written for Celery read: of its worker's `Request`, and of kombu's
`Message`. Nothing is decoded before it is asked for, so that neither can fail when it is made.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from ..serializers.depth import overflows
from ..serializers.registry import SerializerTable
from ..transports import envelope as envelopes
from ..transports.envelope import UNTYPED_CONTENT_TYPE, Envelope, MalformedEnvelope
from .message_errors import MalformedMessage
from .message_headers import decode_dict
from .message_read import parse
from .request import Context
from .unset import UNSET, Unset

if TYPE_CHECKING:
    from .app import App


class ReceivedMessage:
    """A message as it came: what `task_unknown` and `task_rejected` are about.

    Where the bytes are no message at all, headers and properties are empty, and the body is all of them.

    :param document: the bytes that the broker holds.
    :param queue: where it was taken from.
    :param table: reads headers and body.
    """

    __slots__ = ("_envelope", "_table", "document", "queue", "redelivered")

    def __init__(
        self, document: bytes, queue: str, table: SerializerTable, *, redelivered: bool = False
    ) -> None:
        self.document = document
        self.queue = queue
        self.redelivered = redelivered
        self._table = table
        self._envelope: Envelope | None | Unset = UNSET  # until somebody looks

    def _read(self) -> Envelope | None:
        if self._envelope is UNSET:
            self._envelope = _envelope_of(self.document)
        return self._envelope

    @property
    def headers(self) -> dict[str, Any]:
        """All headers."""
        envelope = self._read()
        if envelope is None:
            return {}
        try:
            return decode_dict(envelope.headers, self._table)
        except MalformedMessage:
            return {}  # why is what the signal's `exc` says

    @property
    def properties(self) -> dict[str, Any]:
        """All properties."""
        envelope = self._read()
        if envelope is None:
            return {}
        return {**msgspec.to_builtins(envelope.properties), **(envelope.more_properties or {})}

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Exchange, routing key, priority, and whether it was delivered before."""
        envelope = self._read()
        told = None if envelope is None else envelope.properties.delivery_info
        return {
            "exchange": (told.exchange if told is not None else None) or "",
            "routing_key": (told.routing_key if told is not None else None) or self.queue,
            "priority": 0 if envelope is None else envelope.priority,
            "redelivered": self.redelivered or bool(told is not None and told.redelivered),
        }

    @property
    def delivery_tag(self) -> str | int | None:
        """The tag that its sender gave it."""
        envelope = self._read()
        return None if envelope is None else envelope.properties.delivery_tag

    @property
    def body(self) -> bytes:
        """The serialized payload, compressed if it was sent so."""
        envelope = self._read()
        return self.document if envelope is None else envelope.body

    @property
    def content_type(self) -> str:
        """What the body is."""
        envelope = self._read()
        return UNTYPED_CONTENT_TYPE if envelope is None else envelope.content_type

    @property
    def content_encoding(self) -> str:
        """The character set of the body."""
        envelope = self._read()
        return "binary" if envelope is None else envelope.content_encoding

    @property
    def payload(self) -> Any:
        """The decoded body, as `decode` returns it."""
        return self.decode()

    def decode(self) -> Any:
        """Read the body.

        :raises MalformedMessage: the bytes are no message.
        :raises SerializerError: the body may not be read here, or cannot be.
        """
        envelope = self._read()
        if envelope is None:
            parse(self.document, self._table)  # says why
            return None
        compression = self.headers.get("compression")
        return self._table.decode(
            envelope.body,
            envelope.content_type,
            envelope.content_encoding,
            compression if isinstance(compression, str) else None,
        )

    def __repr__(self) -> str:
        return f"<ReceivedMessage: {len(self.document)} bytes from {self.queue!r}, {self.content_type}>"


class ReceivedRequest:
    """A task's request as its worker sees it: what `task_received` and `task_revoked` are about.

    What is no name of Celery's `Request` is read from the request that the task itself sees (`retries`,
    `headers`, `group`, custom headers).

    :param context: the request of the task, which may not have begun.
    :param task: the registered task; None where there is none of its name.
    :param table: reads the message.
    :param decoded: the context has the arguments; else they are read from the message when asked for.
    """

    __slots__ = ("_app", "_context", "_decoded", "_table", "_task")

    def __init__(
        self, context: Context, task: Any, app: App, table: SerializerTable, *, decoded: bool = True
    ) -> None:
        self._context = context
        self._task = task
        self._app = app
        self._table = table
        self._decoded = decoded

    @property
    def id(self) -> str | None:
        """The task's id."""
        return self._context.id

    task_id = id

    @property
    def name(self) -> str | None:
        """The name to show: of the task, unless the call was given another one (``shadow``)."""
        return self._context.shadow or self._context.task

    task_name = name

    @property
    def type(self) -> str | None:
        """The task's name."""
        return self._context.task

    @property
    def task(self) -> Any:
        """The registered task itself; None where there is none of its name."""
        return self._task

    @property
    def app(self) -> App:
        """The application."""
        return self._app

    @property
    def args(self) -> Any:
        """The arguments by position; empty where they cannot be read."""
        return self._arguments()[0]

    @property
    def kwargs(self) -> Any:
        """The arguments by name; empty where they cannot be read."""
        return self._arguments()[1]

    def _arguments(self) -> tuple[Any, Any]:
        message = self._context.message
        if self._decoded or message is None:
            return self._context.args or [], self._context.kwargs or {}
        try:
            return message.payload(self._table)[:2]
        except MalformedMessage:
            return [], {}  # it will not run: what is wrong with it matters to nobody any more

    @property
    def argsrepr(self) -> str:
        """What the caller lets viewers see of the arguments by position; empty for nothing."""
        message = self._context.message
        return "" if message is None else message.argsrepr

    @property
    def kwargsrepr(self) -> str:
        """The same of the arguments by name."""
        message = self._context.message
        return "" if message is None else message.kwargsrepr

    @property
    def eta(self) -> datetime | None:
        """When it was to start, in UTC."""
        message = self._context.message
        return _moment(None if message is None else message.eta_wall_s)

    @property
    def expires(self) -> datetime | None:
        """After when it is worthless, in UTC."""
        message = self._context.message
        return _moment(None if message is None else message.expires_wall_s)

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """Hard and soft limit in seconds that came with the message."""
        return self._context.time_limit, self._context.soft_time_limit

    @property
    def stamped_headers(self) -> list[str]:
        """The names of its stamps."""
        return self._context.stamped_headers or []

    @property
    def stamps(self) -> dict[str, Any]:
        """Its stamps."""
        return self._context.stamps or {}

    @property
    def ignore_result(self) -> bool:
        """Whether nobody is told of its result."""
        says = (self._context.ignore_result, getattr(self._task, "ignore_result", None))
        return bool(next((one for one in says if one is not None), self._app.conf.task_ignore_result))

    @property
    def message(self) -> ReceivedMessage | None:
        """The message that it came in; None where nobody has it any more."""
        found, where = self._context.message, self._context.delivery_info or {}
        if found is None:
            return None
        return ReceivedMessage(
            found.envelope.document,
            where.get("routing_key", ""),
            self._table,
            redelivered=bool(self._context.redelivered),
        )

    @property
    def body(self) -> bytes | None:
        """The serialized payload of the message."""
        message = self._context.message
        return None if message is None else message.envelope.body

    @property
    def content_type(self) -> str | None:
        """What the body is."""
        message = self._context.message
        return None if message is None else message.content_type

    @property
    def content_encoding(self) -> str | None:
        """The character set of the body."""
        message = self._context.message
        return None if message is None else message.content_encoding

    @property
    def request_dict(self) -> dict[str, Any]:
        """All headers of the message, with what else a task's request tells."""
        message = self._context.message
        told = {
            name: getattr(self._context, name)
            for name in ("correlation_id", "delivery_info", "hostname", "properties", "reply_to")
        }
        headers = {} if message is None else message.all_headers(self._table)
        return {**headers, **told, "args": self.args, "kwargs": self.kwargs}

    def __getattr__(self, name: str) -> Any:
        """What the task itself sees as its request; asked only for what is no name above."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._context, name)

    def __repr__(self) -> str:
        return f"<ReceivedRequest: {self.name}[{self.id}]>"


def _envelope_of(document: bytes) -> Envelope | None:
    if overflows(document):
        return None
    try:
        return envelopes.decode(document)
    except MalformedEnvelope:
        return None  # why is what the signal's `exc` says


def _moment(wall_s: float | None) -> datetime | None:
    return None if wall_s is None else datetime.fromtimestamp(wall_s, timezone.utc)
