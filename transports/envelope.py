"""The kombu envelope: one JSON document per message, on every transport that stores documents.

Facts: interop §1.1. The decoder is typed and makes one pass; what it refuses although stdlib JSON
would take it (NaN, lone surrogates, loose header types) is tried once more with stdlib ``json``
before the message is called malformed.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from .base import Message
from .errors import TransportError
from .identifiers import fresh_id

DOCUMENT_BYTES_MAX = 128 * 1024 * 1024
"""How large a document may be, when nothing else is said, before a byte of it is looked at."""

UNTYPED_CONTENT_TYPE = "application/data"
"""What a message without a content type is taken to be (interop §1.2)."""


class EnvelopeFault(str, Enum):
    """Why a document is no envelope. A closed set; the values are dead-letter reasons."""

    NOT_JSON = "not-json"
    TOO_DEEP = "too-deep"
    TOO_LARGE = "too-large"
    NOT_AN_OBJECT = "not-an-object"
    BAD_PROPERTIES = "bad-properties"
    NO_DELIVERY_TAG = "no-delivery-tag"
    BAD_HEADERS = "bad-headers"
    BAD_BODY = "bad-envelope-body"
    BAD_BODY_ENCODING = "bad-body-encoding"
    BAD_BASE64 = "bad-base64"
    BAD_CONTENT_TYPE = "bad-content-type"


class MalformedEnvelope(TransportError):
    """A document that is no envelope. The only error that `decode` raises.

    :param reason: the code to settle by.
    :param detail: one line for people; never contains the document.
    """

    def __init__(self, reason: EnvelopeFault, detail: str) -> None:
        self.reason = EnvelopeFault(reason)  # plain text where it was stored
        super().__init__(self.reason.value, detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


class DeliveryInfo(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where a message was published to."""

    exchange: str | None = None
    routing_key: str | None = None
    redelivered: bool | None = None


class Properties(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The properties that kombu and task clients write."""

    delivery_tag: str | int
    delivery_info: DeliveryInfo | None = None
    priority: Any = None
    body_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    delivery_mode: Any = None
    expiration: Any = None


class _StrictProperties(Properties, frozen=True, gc=False, forbid_unknown_fields=True):
    """For the typed pass: whoever writes other properties pays for the second pass, which keeps them."""


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A document taken apart.

    :param body: decoded from base64, not yet decompressed nor deserialized.
    :param headers: a JSON object, not yet decoded; may hold kombu's two-key objects (interop §1.3).
    :param properties: those that kombu and task clients write.
    :param more_properties: the others, as plain JSON values.
    :param document: the whole, as it came.
    """

    body: bytes
    content_type: str
    content_encoding: str
    headers: msgspec.Raw
    properties: Properties
    more_properties: dict[str, Any] | None
    document: bytes

    @property
    def priority(self) -> int:
        """0 to 9: anything but an integer is 0, and out of range is clamped (interop §1.1)."""
        return clamped_priority(self.properties.priority)

    def message(self, loads: Callable[[bytes], Any] = json.loads) -> Message:
        """The message with all its headers and properties.

        :param loads: reads JSON; give one that knows the two-key objects, to have what they stand
            for in the headers. Whatever it raises is passed on.
        """
        return Message(
            body=self.body,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            headers=loads(bytes(self.headers)),
            properties={**msgspec.to_builtins(self.properties), **(self.more_properties or {})},
        )


class _Incoming(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    body: str
    properties: _StrictProperties
    headers: msgspec.Raw = msgspec.Raw(b"{}")
    content_type: str | None = msgspec.field(name="content-type", default=None)
    content_encoding: str | None = msgspec.field(name="content-encoding", default=None)


class _Outgoing(msgspec.Struct, gc=False):
    body: bytes
    content_encoding: str = msgspec.field(name="content-encoding")
    content_type: str = msgspec.field(name="content-type")
    headers: Any
    properties: Any


_decode_incoming = msgspec.json.Decoder(_Incoming).decode
_encode_outgoing = msgspec.json.Encoder().encode
_OBJECT = ord("{")


PRIORITY_MAX = 255
"""The highest that a message can bear (AMQP); the other brokers take what is above 9 for 9."""


def borne_priority(value: Any) -> int:
    """What a ``priority`` property says, for a message that is sent on: RabbitMQ may have levels above 9."""
    if type(value) is not int:
        return 0
    return value if 0 <= value <= PRIORITY_MAX else min(max(value, 0), PRIORITY_MAX)


def clamped_priority(value: Any) -> int:
    """0 to 9 of whatever a ``priority`` property holds (interop §1.1)."""
    if type(value) is not int:
        return 0
    return value if 0 <= value <= 9 else min(max(value, 0), 9)


def decode(document: bytes, *, document_bytes_max: int = DOCUMENT_BYTES_MAX) -> Envelope:
    """Take a document apart.

    :param document_bytes_max: larger ones are refused unread.
    :raises MalformedEnvelope: and nothing else, whatever the bytes are.
    """
    if len(document) > document_bytes_max:
        raise MalformedEnvelope(EnvelopeFault.TOO_LARGE, f"{len(document)} bytes, of {document_bytes_max}")
    try:
        incoming = _decode_incoming(document)
    # ValueError: bytes that are not UTF-8. All of it is looked at again, less strictly.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _decode_loosely(document)
    headers = incoming.headers
    if memoryview(headers)[0] != _OBJECT:
        headers = _headers_or_none(headers)
    return Envelope(
        _body_bytes(incoming.body, incoming.properties.body_encoding),
        incoming.content_type or UNTYPED_CONTENT_TYPE,
        incoming.content_encoding or "utf-8",
        headers,
        incoming.properties,
        None,
        document,
    )


def encode(
    message: Message,
    *,
    delivery_tag: str | None = None,
    dumps: Callable[[Any], bytes] | None = None,
) -> bytes:
    """The document of a message.

    :param delivery_tag: None makes a fresh one; the message's own is never reused, because two
        copies of a message must not share a tag (interop §18, 5).
    :param dumps: writes JSON; give one that knows kombu's two-key objects if headers may hold
        datetimes and the like. Whatever it raises is passed on.
    """
    properties = {
        "delivery_info": {"exchange": "", "routing_key": ""},
        "priority": 0,
        **message.properties,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag or fresh_id(),
    }
    document = {
        "body": binascii.b2a_base64(message.body, newline=False).decode("ascii"),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": message.headers,
        "properties": properties,
    }
    return json.dumps(document).encode("ascii") if dumps is None else dumps(document)


def encode_exact(
    body: bytes, content_type: str, content_encoding: str, headers: msgspec.Struct, properties: msgspec.Struct
) -> bytes:
    """The document of a message whose headers and properties are structs: a quarter of the price.

    :param headers: holds nothing but None, booleans, integers, finite floats, strings, and lists,
        dicts and structs of them: other values would silently get a form that peers do not know.
    :param properties: likewise, with ``body_encoding`` "base64" and a ``delivery_tag``.
    :raises UnicodeEncodeError: a string with a lone surrogate; `encode` takes it.
    """
    return _encode_outgoing(_Outgoing(body, content_encoding, content_type, headers, properties))


def _body_bytes(body: str, body_encoding: str | None) -> bytes:
    if body_encoding == "base64":
        try:
            return binascii.a2b_base64(body)
        # ValueError: characters beyond ASCII.
        except (binascii.Error, ValueError) as exc:
            raise MalformedEnvelope(EnvelopeFault.BAD_BASE64, str(exc)[:200]) from exc
    if body_encoding is None or body_encoding == "":
        try:
            return body.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise MalformedEnvelope(EnvelopeFault.BAD_BODY, "a body with a lone surrogate") from exc
    raise MalformedEnvelope(EnvelopeFault.BAD_BODY_ENCODING, f"body_encoding {body_encoding[:80]!r}")


def _headers_or_none(raw: msgspec.Raw) -> msgspec.Raw:
    if bytes(raw) == b"null":
        return msgspec.Raw(b"{}")
    raise MalformedEnvelope(EnvelopeFault.BAD_HEADERS, "headers are not an object")


def _decode_loosely(document: bytes) -> Envelope:
    """What the typed decoder refused: stdlib JSON, and a check of every part by hand."""
    try:
        found = json.loads(document.decode("utf-8"))
        if not isinstance(found, dict):
            raise MalformedEnvelope(EnvelopeFault.NOT_AN_OBJECT, f"a {type(found).__name__}")
        headers = found.get("headers")
        if headers is not None and not isinstance(headers, dict):
            raise MalformedEnvelope(EnvelopeFault.BAD_HEADERS, f"headers are a {type(headers).__name__}")
        raw = json.dumps(headers or {}).encode("ascii")
    except RecursionError as exc:
        raise MalformedEnvelope(EnvelopeFault.TOO_DEEP, "nested too deeply") from exc
    except ValueError as exc:
        raise MalformedEnvelope(EnvelopeFault.NOT_JSON, f"{type(exc).__name__}: {str(exc)[:200]}") from exc
    body = found.get("body")
    if not isinstance(body, str):
        raise MalformedEnvelope(EnvelopeFault.BAD_BODY, f"body is a {type(body).__name__}")
    properties, more_properties = _loose_properties(found.get("properties"))
    return Envelope(
        body=_body_bytes(body, properties.body_encoding),
        content_type=_content(found, "content-type") or UNTYPED_CONTENT_TYPE,
        content_encoding=_content(found, "content-encoding") or "utf-8",
        headers=msgspec.Raw(raw),
        properties=properties,
        more_properties=more_properties,
        document=document,
    )


def _content(found: dict[str, Any], key: str) -> str | None:
    value = found.get(key)
    if value is None or isinstance(value, str):
        return value
    raise MalformedEnvelope(EnvelopeFault.BAD_CONTENT_TYPE, f"{key} is a {type(value).__name__}")


def _loose_properties(found: Any) -> tuple[Properties, dict[str, Any] | None]:
    if not isinstance(found, dict):
        raise MalformedEnvelope(EnvelopeFault.BAD_PROPERTIES, f"properties are a {type(found).__name__}")
    if found.get("delivery_tag") is None:
        raise MalformedEnvelope(EnvelopeFault.NO_DELIVERY_TAG, "properties have no delivery_tag")
    body_encoding = found.get("body_encoding")
    if body_encoding is not None and not isinstance(body_encoding, str):
        raise MalformedEnvelope(
            EnvelopeFault.BAD_BODY_ENCODING, f"body_encoding is a {type(body_encoding).__name__}"
        )
    try:
        known = msgspec.convert(found, Properties)
    # ValueError, OverflowError: numbers beyond any sense.
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        raise MalformedEnvelope(EnvelopeFault.BAD_PROPERTIES, str(exc)[:200]) from exc
    more = {key: value for key, value in found.items() if key not in Properties.__struct_fields__}
    return known, more or None
