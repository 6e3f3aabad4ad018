"""Envelope documents become messages of kombu, and messages become documents.

What is published is what a task client publishes, so that peers on the same transport read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu.utils import json as kombu_json

from ..base import Message
from ..envelope import MalformedEnvelope, clamped_priority, decode, encode

RAW = "prefork_document"
"""Header of a message whose body is a document that is no envelope."""

CRASHES = "prefork_crashes"
"""Header: how many processes died while they ran this message."""

CAUSES = "prefork_causes"
REASON = "prefork_reason"
QUEUE = "prefork_queue"
DUE = "prefork_due"
OWN_HEADERS = (RAW, CRASHES, CAUSES, REASON, QUEUE, DUE)

# kombu declares no types.
_kombu_dumps: Any = kombu_json.dumps
_kombu_loads: Any = kombu_json.loads

# What the transport writes anew for each copy of a message.
_OF_THE_COPY = ("body_encoding", "delivery_info", "delivery_tag", "priority")

# What is said of a message beside its properties; py-amqp shows it among them too, and takes it once only.
_SAID_APART = ("application_headers", "content_encoding", "content_type", "headers")


class Parts(NamedTuple):
    """A message as kombu's channels take it."""

    body: bytes
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    priority: int


class Received(NamedTuple):
    """A message as it came from a queue.

    :param handle: kombu's own object, by which it is acknowledged.
    :param marks: the headers that are ours.
    """

    handle: Any
    queue: str
    document: bytes
    priority: int
    marks: Mapping[str, Any]
    redelivered: bool

    @property
    def crashes(self) -> int:
        """How many processes died while they ran it."""
        found = self.marks.get(CRASHES)
        return found if isinstance(found, int) and found > 0 else 0

    @property
    def causes(self) -> tuple[str, ...]:
        """Why they died."""
        found = self.marks.get(CAUSES)
        return tuple(str(one) for one in found) if isinstance(found, (list, tuple)) else ()


def parts_of(document: bytes, priority: int, marks: Mapping[str, Any] | None = None) -> Parts:
    """What to publish for a document.

    :param marks: headers of ours to add.
    """
    priority = clamped_priority(priority)
    try:
        message = decode(document).message(_kombu_loads)
    # ValueError: headers that hold a two-key object of an unknown type.
    except (MalformedEnvelope, ValueError):
        headers = {RAW: True, **(marks or {})}
        return Parts(document, "application/data", "binary", headers, {}, priority)
    left_out = _OF_THE_COPY + _SAID_APART
    properties = {key: value for key, value in message.properties.items() if key not in left_out}
    headers = {**message.headers, **(marks or {})}
    return Parts(message.body, message.content_type, message.content_encoding, headers, properties, priority)


def received(handle: Any, queue: str) -> Received:
    """Read a message of kombu; its headers must agree with its body about compression."""
    headers = dict(handle.headers or {})
    marks = {name: headers.pop(name) for name in OWN_HEADERS if name in headers}
    properties = {key: one for key, one in (handle.properties or {}).items() if key not in _SAID_APART}
    body = handle.body
    if isinstance(body, str):
        body = body.encode("utf-8")
    elif not isinstance(body, bytes):
        body = b"" if body is None else bytes(body)
    info = dict(handle.delivery_info or {})
    if marks.get(RAW):
        document = body
    else:
        properties["delivery_info"] = {
            "exchange": info.get("exchange") or "",
            "routing_key": info.get("routing_key") or "",
        }
        document = encode(
            Message(
                body=body,
                content_type=handle.content_type or "application/data",
                content_encoding=handle.content_encoding or "utf-8",
                headers=headers,
                properties=properties,
            ),
            dumps=_dumps,
        )
    priority = clamped_priority(properties.get("priority"))
    return Received(handle, queue, document, priority, marks, bool(info.get("redelivered")))


def _dumps(value: Any) -> bytes:
    return str(_kombu_dumps(value)).encode("utf-8")
