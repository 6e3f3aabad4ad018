"""Kombu's JSON envelope, which the engine speaks, to and from properties and body of AMQP (interop §6.1).

On AMQP a message has no envelope: its body is raw, its headers are a field table. What was sent as
bytes that are no envelope travels as they are, marked by its content type.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from ..envelope import Envelope, MalformedEnvelope, decode
from .ladder import origin

RAW_CONTENT_TYPE = "application/x-prefork-document"
"""The body is a document as it is, and no envelope is to be made."""

HEADER_STARTS = "x-prefork-starts"
"""How often a process died while it ran this message."""
HEADER_CAUSES = "x-prefork-causes"
"""Why: one line of text each."""

VANISHED = "its worker vanished"
"""The cause of a death that nobody was left to tell of."""

CAUSES_MAX = 100
"""How many causes are kept."""

HEADER_SUSPECT = "x-prefork-suspect"
"""A process that held it vanished, so that it may be what killed it."""
HEADER_OWNER = "prefork-owner"
"""Who holds it while it runs, for a suspect. (A headers exchange does not look at names in x-.)"""

_OURS = frozenset((HEADER_STARTS, HEADER_CAUSES, HEADER_SUSPECT, HEADER_OWNER))
# What the broker adds on the way; x-death must not go round again, or RabbitMQ takes the second pass
# through a delay queue for a cycle, and drops the message.
_BROKERS = re.compile(r"x-(death|first-death-.*|last-death-.*|delivery-count|acquired-count)\Z")

_PASSED = (
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)

_PLAIN = frozenset((str, int, float, bool, type(None)))

_encode = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class Content(NamedTuple):
    """A message as AMQP carries it.

    :param properties: by their names in AMQP, ``headers`` among them.
    """

    properties: dict[str, Any]
    body: bytes


class _Document(msgspec.Struct):
    body: bytes
    content_encoding: str = msgspec.field(name="content-encoding")
    content_type: str = msgspec.field(name="content-type")
    headers: Any
    properties: Any


def to_content(document: bytes, priority: int) -> Content:
    """What is published for a document.

    :param priority: left out when it is 0, which means the same.
    """
    try:
        envelope = decode(document)
    except MalformedEnvelope:
        return Content(
            _with_priority({"content_type": RAW_CONTENT_TYPE, "delivery_mode": 2}, priority), document
        )
    properties = _properties_of(envelope)
    headers = _decode_json(envelope.headers)
    if b'"__type__"' in bytes(envelope.headers):
        headers = _untyped(headers)
    properties["headers"] = headers
    return Content(_with_priority(properties, priority), envelope.body)


def _properties_of(envelope: Envelope) -> dict[str, Any]:
    found = envelope.properties
    mode = found.delivery_mode
    properties: dict[str, Any] = {
        "content_type": envelope.content_type,
        "content_encoding": envelope.content_encoding,
        "delivery_mode": mode if mode in (1, 2) else 2,
        "correlation_id": found.correlation_id,
        "reply_to": found.reply_to,
        "expiration": found.expiration,
    }
    if envelope.more_properties:
        more = envelope.more_properties
        properties.update({name: more[name] for name in _PASSED if isinstance(more.get(name), str)})
    return properties


def _with_priority(properties: dict[str, Any], priority: int) -> dict[str, Any]:
    if priority > 0:
        properties["priority"] = min(priority, 255)
    return properties


def to_document(
    properties: Mapping[str, Any],
    body: bytes,
    exchange: str,
    routing_key: str,
    tag: str,
    *,
    marked: bool = True,
    plain: bool = False,
) -> bytes:
    """The document of a message that came.

    :param tag: what kombu calls the delivery tag; any text.
    :param marked: see `may_be_marked`; False saves a look at every name.
    :param plain: the headers are known to be JSON as they stand; saves a look at every value.
    """
    content_type = properties.get("content_type")
    if content_type == RAW_CONTENT_TYPE:
        return body
    exchange, key = origin(exchange, routing_key)
    kept: dict[str, Any] = {
        "delivery_info": {"exchange": exchange, "routing_key": key},
        "priority": properties.get("priority", 0),
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    if "delivery_mode" in properties:
        kept["delivery_mode"] = properties["delivery_mode"]
    for name in _PASSED:
        if name in properties:
            kept[name] = properties[name]
    headers = properties.get("headers") or {}
    if marked:
        headers = own_headers(headers)
    document = _Document(
        body,
        str(properties.get("content_encoding") or "utf-8"),
        str(content_type or "application/data"),
        headers,
        kept,
    )
    if not plain and not is_plain(headers):
        document.headers = _typed(headers)
    try:
        return _encode(document)
    except UnicodeEncodeError:
        document.headers, document.properties = _typed(headers), _typed(kept)
        return _encode(document)


def may_be_marked(header: bytes) -> bool:
    """Whether a content header may hold names that are not the sender's: a look at its raw bytes."""
    return b"x-" in header or b"prefork-" in header


def own_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The sender's headers: without those that the broker added, and without our own."""
    if not any(name.startswith(("x-", HEADER_OWNER)) for name in headers):
        return headers if isinstance(headers, dict) else dict(headers)
    return {name: value for name, value in headers.items() if not _BROKERS.match(name) and name not in _OURS}


def starts_of(properties: Mapping[str, Any]) -> int:
    """How many processes died while they ran the message. Anybody may have written the header."""
    value = (properties.get("headers") or {}).get(HEADER_STARTS)
    return value if type(value) is int and 0 <= value < 1 << 31 else 0


def causes_of(properties: Mapping[str, Any]) -> tuple[str, ...]:
    """Why they died, as far as somebody knew."""
    value = (properties.get("headers") or {}).get(HEADER_CAUSES)
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


def every_cause(causes: tuple[str, ...], crashes: int) -> tuple[str, ...]:
    """A cause for each death: of a worker that died as a whole, nobody was left to say why.

    The last `CAUSES_MAX` of them: anybody may have written how many there were.
    """
    return (causes + (VANISHED,) * min(crashes - len(causes), CAUSES_MAX))[-CAUSES_MAX:]


def suspect_of(properties: Mapping[str, Any]) -> bool:
    """Whether it was made a suspect before."""
    return (properties.get("headers") or {}).get(HEADER_SUSPECT) is True


def again(
    properties: Mapping[str, Any], *, starts: int, causes: tuple[str, ...] = (), suspect: bool = False
) -> dict[str, Any]:
    """The properties under which a message is published once more, with the record that it has now.

    :param starts: how many processes died while they ran it.
    :param causes: why, one line of text each.
    """
    headers = own_headers(properties.get("headers") or {})
    if starts:
        headers = {**headers, HEADER_STARTS: starts}
    if causes:
        headers = {**headers, HEADER_CAUSES: list(causes)}
    if suspect:
        headers = {**headers, HEADER_SUSPECT: True}
    # A lifetime given to the broker has begun when the message was first sent; it would begin anew.
    return {
        **{name: value for name, value in properties.items() if name != "expiration"},
        "headers": dict(headers),
    }


def is_plain(value: Any) -> bool:
    """Whether it is JSON as it stands: the encoder would give other values a form of its own."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        return all(map(is_plain, value.values()))
    return kind is list and all(map(is_plain, value))


def _typed(value: Any) -> Any:
    """JSON of what plain JSON does not hold, in kombu's two-key form (interop §1.3)."""
    if isinstance(value, dict):
        return {str(key): _typed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_typed(item) for item in value]
    if isinstance(value, datetime):
        return {"__type__": "datetime", "__value__": value.isoformat()}
    if isinstance(value, Decimal):
        return {"__type__": "decimal", "__value__": str(value)}
    if isinstance(value, bytes):
        return {"__type__": "base64", "__value__": base64.b64encode(value).decode("ascii")}
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _untyped(value: Any) -> Any:
    """The reverse of `_typed`; other two-key forms stay what they are."""
    if isinstance(value, list):
        return [_untyped(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"__type__", "__value__"} and isinstance(value["__value__"], str):
        read = _UNTYPED.get(str(value["__type__"]))
        try:
            return value if read is None else read(value["__value__"])
        except (ValueError, ArithmeticError):
            return value
    return {key: _untyped(item) for key, item in value.items()}


_UNTYPED: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat,
    "decimal": Decimal,
    "base64": base64.b64decode,
    "bytes": lambda text: text.encode("utf-8"),
}
