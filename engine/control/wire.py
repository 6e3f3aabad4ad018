"""Requests and replies of remote control, as they travel (interop §11.2, §11.4). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...serializers.base import SerializerError
from ...serializers.registry import SerializerTable
from ...transports.base import Message
from ...transports.mailbox import ControlQueue

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
NAME_LENGTH_MAX: Final = 255

_PERSISTENT: Final = 2
_TRANSIENT: Final = 1


class MalformedControl(ValueError):
    """What came is no request, or no reply."""


class ReplyTo(NamedTuple):
    """Where a reply goes."""

    exchange: str
    address: str


class Request(NamedTuple):
    """What a client wants of workers.

    :param destination: node names; None means everybody.
    :param pattern: of node names, if `matcher` says how it is to be read.
    :param ticket: what replies are recognised by; None when none are wanted.
    :param clock: the logical clock of the client; None when it sent none.
    :param expires_wall_s: when nobody waits any more, in Unix time; None for never.
    """

    method: str
    arguments: Mapping[str, Any]
    destination: Sequence[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str | None = None
    reply_to: ReplyTo | None = None
    clock: int | None = None
    expires_wall_s: float | None = None


class Reply(NamedTuple):
    """What one worker answers."""

    node: str
    answer: Any
    ticket: str | None
    clock: int | None


def control_table(config: Any) -> SerializerTable:
    """What a process reads and writes in remote control: what the configuration names, and no more."""
    return SerializerTable(
        {"json", config.task_serializer}, config.accept_content, input_bytes_max=REPLY_BYTES_MAX
    )


def queue_of(config: Any) -> ControlQueue:
    """How the queues of remote control are declared."""
    return ControlQueue(
        config.control_queue_ttl,
        config.control_queue_expires,
        config.control_queue_exclusive,
        config.control_queue_durable,
    )


def encode_request(request: Request, table: SerializerTable, serializer: str) -> Message:
    """The message of a request.

    :raises EncodeError: an argument cannot be serialized.
    """
    body: dict[str, Any] = {
        "method": request.method,
        "arguments": dict(request.arguments),
        "destination": None if request.destination is None else list(request.destination),
        "pattern": request.pattern,
        "matcher": request.matcher,
    }
    if request.ticket is not None and request.reply_to is not None:
        body["ticket"] = request.ticket
        body["reply_to"] = {
            "exchange": request.reply_to.exchange,
            "routing_key": request.reply_to.address,
        }
    headers = {"clock": request.clock or 0, "expires": request.expires_wall_s or 0}
    return _message(body, headers, _PERSISTENT, table, serializer)


def decode_request(message: Message, table: SerializerTable) -> Request:
    """Read a request.

    :raises MalformedControl: and nothing else, whatever came.
    """
    body = _body(message, table, REQUEST_BYTES_MAX)
    method, arguments = body.get("method"), body.get("arguments") or {}
    if not isinstance(method, str) or not 0 < len(method) <= NAME_LENGTH_MAX:
        raise MalformedControl("method is no name")
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise MalformedControl("arguments are no mapping by name")
    destination = body.get("destination")
    if destination is not None and (
        not isinstance(destination, (list, tuple)) or not all(isinstance(one, str) for one in destination)
    ):
        raise MalformedControl("destination is no list of node names")
    return Request(
        method,
        arguments,
        destination or None,
        _text(body, "pattern"),
        _text(body, "matcher"),
        _text(body, "ticket"),
        _reply_to(body.get("reply_to")),
        _clock(message.headers.get("clock")),
        _expires(message.headers.get("expires")),
    )


def encode_reply(reply: Reply, table: SerializerTable, serializer: str) -> Message:
    """The message of a reply.

    :raises EncodeError: the answer cannot be serialized.
    """
    headers = {"ticket": reply.ticket, "clock": reply.clock or 0}
    return _message({reply.node: reply.answer}, headers, _TRANSIENT, table, serializer)


def decode_reply(message: Message, table: SerializerTable) -> Reply:
    """Read a reply.

    :raises MalformedControl: and nothing else, whatever came.
    """
    body = _body(message, table, REPLY_BYTES_MAX)
    if len(body) != 1:
        raise MalformedControl("a reply has exactly one key, the name of the node")
    ((node, answer),) = body.items()
    ticket = message.headers.get("ticket")
    return Reply(
        str(node), answer, ticket if isinstance(ticket, str) else None, _clock(message.headers.get("clock"))
    )


def _message(
    body: dict[str, Any], headers: dict[str, Any], delivery_mode: int, table: SerializerTable, serializer: str
) -> Message:
    data, content_type, content_encoding = table.encode(body, serializer)
    return Message(
        data, content_type, content_encoding, headers, {"delivery_mode": delivery_mode, "priority": 0}
    )


def _body(message: Message, table: SerializerTable, bytes_max: int) -> dict[str, Any]:
    if len(message.body) > bytes_max:
        raise MalformedControl(f"{len(message.body)} bytes, of at most {bytes_max}")
    compression = message.headers.get("compression")
    if compression is not None and not isinstance(compression, str):
        raise MalformedControl("the compression is no name")
    try:
        body = table.decode(message.body, message.content_type, message.content_encoding, compression)
    except SerializerError as error:
        raise MalformedControl(f"{error}"[:500]) from error
    if not isinstance(body, dict):
        raise MalformedControl(f"a {type(body).__name__} is no mapping")
    return body


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise MalformedControl(f"{name} is no text")


def _reply_to(value: Any) -> ReplyTo | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise MalformedControl("reply_to is no mapping")
    exchange, address = value.get("exchange"), value.get("routing_key")
    if not isinstance(exchange, str) or not isinstance(address, str):
        raise MalformedControl("reply_to names no exchange and routing key")
    if not exchange or len(exchange) > NAME_LENGTH_MAX or len(address) > NAME_LENGTH_MAX:
        raise MalformedControl("reply_to names no exchange and routing key that a broker takes")
    return ReplyTo(exchange, address)


def _clock(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _expires(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value) if value > 0 else None
