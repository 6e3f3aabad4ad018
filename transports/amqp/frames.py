"""The frames of the hot path, built and taken apart by hand: publish, get, deliver, ack.

py-amqp spends about 140 µs of Python on a message; these take a tenth of it (docs/decisions/0013).
Everything else (handshake, declarations, closing) is left to py-amqp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .codec import encode_table, short_text

Method = tuple[int, int]

CHANNEL_CLOSE: Method = (20, 40)
DECLARE_OK: Method = (50, 11)
RETURN: Method = (60, 50)
DELIVER: Method = (60, 60)
GET_OK: Method = (60, 71)
GET_EMPTY: Method = (60, 72)
ACK: Method = (60, 80)
NACK: Method = (60, 120)
CANCEL: Method = (60, 30)
CANCEL_OK: Method = (60, 31)

WITH_CONTENT = frozenset((RETURN, DELIVER, GET_OK))

FRAME_END = b"\xce"
HEAD = struct.Struct(">BHI")
METHOD = struct.Struct(">HH")
_TAG = struct.Struct(">Q")
_TAG_BITS = struct.Struct(">HHQB")
_CONTENT = struct.Struct(">HHQ")
_COUNT = struct.Struct(">I")
_CODE = struct.Struct(">H")
_COUNTS = struct.Struct(">II")
_CONSUME_NO_WAIT = 0b1000
_NO_ACK = 0b0010
_DURABLE = 0b00010
_DECLARE_NO_WAIT = 0b10000


def method_frame(channel: int, payload: bytes) -> bytes:
    """One method frame."""
    return HEAD.pack(1, channel, len(payload)) + payload + FRAME_END


def publish_frames(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
    frame_max_bytes: int,
    *,
    mandatory: bool,
) -> list[bytes]:
    """The frames of one message.

    :param properties: what `codec.encode_properties` made.
    """
    arguments = (
        b"\x00\x3c\x00\x28\x00\x00"
        + short_text(exchange)
        + short_text(routing_key)
        + (b"\x01" if mandatory else b"\x00")
    )
    header = _CONTENT.pack(60, 0, len(body)) + properties
    frames = [
        HEAD.pack(1, channel, len(arguments)),
        arguments,
        FRAME_END,
        HEAD.pack(2, channel, len(header)),
        header,
        FRAME_END,
    ]
    room = frame_max_bytes - 8
    for start in range(0, len(body), room):
        piece = body if len(body) <= room else body[start : start + room]
        frames += (HEAD.pack(3, channel, len(piece)), piece, FRAME_END)
    return frames


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Acknowledge one delivery, or all up to it."""
    return method_frame(channel, _TAG_BITS.pack(60, 80, tag, int(multiple)))


def ack_frames(channel: int, done: set[int], others: Iterable[int]) -> list[bytes]:
    """Acknowledge deliveries; all that are older than anything else that is held with one frame.

    :param others: the tags of what stays held.
    """
    oldest_other = min(others, default=1 << 64)
    together = [tag for tag in done if tag < oldest_other]
    frames = [ack_frame(channel, max(together), multiple=True)] if together else []
    return frames + [ack_frame(channel, tag, multiple=False) for tag in done if tag > oldest_other]


def requeue_frame(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return one delivery to its queue, or all up to it."""
    return method_frame(channel, _TAG_BITS.pack(60, 120, tag, 0b10 | int(multiple)))


def get_frame(channel: int, queue: str) -> bytes:
    """Ask for one message, to be acknowledged."""
    return method_frame(channel, b"\x00\x3c\x00\x46\x00\x00" + short_text(queue) + b"\x00")


def consume_frame(channel: int, queue: str, consumer_tag: str, *, no_ack: bool = False) -> bytes:
    """Have messages pushed; the broker does not answer."""
    payload = b"\x00\x3c\x00\x14\x00\x00" + short_text(queue) + short_text(consumer_tag)
    bits = _CONSUME_NO_WAIT | (_NO_ACK if no_ack else 0)
    return method_frame(channel, payload + bytes((bits,)) + encode_table({}))


def declare_frame(channel: int, queue: str, arguments: Mapping[str, Any], *, wait: bool = True) -> bytes:
    """Declare a durable queue; the answer, if one is wanted, tells what is in it."""
    bits = _DURABLE | (0 if wait else _DECLARE_NO_WAIT)
    payload = b"\x00\x32\x00\x0a\x00\x00" + short_text(queue) + bytes((bits,)) + encode_table(arguments)
    return method_frame(channel, payload)


def cancel_frame(channel: int, consumer_tag: str, *, wait: bool = False) -> bytes:
    """Have no more messages pushed; the answer, if one is wanted, comes after the last of them."""
    no_wait = b"\x00" if wait else b"\x01"
    return method_frame(channel, b"\x00\x3c\x00\x1e" + short_text(consumer_tag) + no_wait)


class Arrival(NamedTuple):
    """What a deliver or a get-ok says of its message.

    :param consumer_tag: empty for a get-ok.
    :param left: how many more the queue holds, for a get-ok.
    """

    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    left: int


def read_arrival(method: Method, payload: bytes) -> Arrival:
    """Take the arguments of a deliver or a get-ok apart."""
    offset = 4
    consumer_tag, left = "", 0
    if method == DELIVER:
        consumer_tag, offset = _short(payload, offset)
    (tag,) = _TAG.unpack_from(payload, offset)
    redelivered = payload[offset + 8] & 1 == 1
    exchange, offset = _short(payload, offset + 9)
    routing_key, offset = _short(payload, offset)
    if method == GET_OK:
        (left,) = _COUNT.unpack_from(payload, offset)
    return Arrival(consumer_tag, tag, redelivered, exchange, routing_key, left)


def read_return(payload: bytes) -> tuple[int, str, str, str]:
    """Code, text, exchange and routing key of a message that came back."""
    (code,) = _CODE.unpack_from(payload, 4)
    text, offset = _short(payload, 6)
    exchange, offset = _short(payload, offset)
    routing_key, _ = _short(payload, offset)
    return code, text, exchange, routing_key


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Tag of an ack or nack, and whether it stands for all before it."""
    (tag,) = _TAG.unpack_from(payload, 4)
    return tag, payload[12] & 1 == 1


def read_counts(payload: bytes) -> tuple[int, int]:
    """Ready messages and consumers, from the answer to a declaration."""
    messages, consumers = _COUNTS.unpack_from(payload, _short(payload, 4)[1])
    return messages, consumers


def read_consumer_tag(payload: bytes) -> str:
    """Whose consumer the broker cancelled."""
    return _short(payload, 4)[0]


def read_close(payload: bytes) -> str:
    """Why the broker closed a channel."""
    return _short(payload, 6)[0]


def _short(data: bytes, offset: int) -> tuple[str, int]:
    end = offset + 1 + data[offset]
    return data[offset + 1 : end].decode("utf-8", "surrogateescape"), end
