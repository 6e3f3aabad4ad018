"""Field tables and content properties of AMQP 0-9-1, to and from bytes. Pure.

Values take the forms that py-amqp gives them (interop §6.1), so that peers read the same types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

PROPERTIES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
"""In the order of the wire, whose flags begin at bit 15."""

DEPTH_MAX = 32
_SHORT_MAX = 255
_FLAGS = {name: 1 << (15 - index) for index, name in enumerate(PROPERTIES)}
_TEXTS = frozenset(PROPERTIES) - {"headers", "delivery_mode", "priority", "timestamp"}

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Unencodable(ValueError):
    """A value that has no form in AMQP 0-9-1."""


class Undecodable(ValueError):
    """Bytes that are no table, or no properties."""


def short_text(text: str) -> bytes:
    """A short string: at most 255 bytes.

    :raises Unencodable: it is longer.
    """
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > _SHORT_MAX:
        raise Unencodable(f"{text[:40]!r}… has {len(data)} bytes; AMQP allows {_SHORT_MAX} for a name or key")
    return bytes((len(data),)) + data


# --- tables -----------------------------------------------------------------------------------------


def encode_table(table: Mapping[str, Any], depth: int = 0) -> bytes:
    """A field table with its length.

    :raises Unencodable: a value without a form here, or too deep a nesting.
    """
    if depth > DEPTH_MAX:
        raise Unencodable(f"tables nested more than {DEPTH_MAX} deep")
    parts: list[bytes] = []
    for key, value in table.items():
        parts.append(short_text(str(key)))
        parts.append(_encode_value(value, depth))
    data = b"".join(parts)
    return _U32.pack(len(data)) + data


def _encode_value(value: Any, depth: int) -> bytes:
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Mapping):
        return b"F" + encode_table(value, depth + 1)
    if isinstance(value, (list, tuple)):
        if depth > DEPTH_MAX:
            raise Unencodable(f"arrays nested more than {DEPTH_MAX} deep")
        data = b"".join([_encode_value(item, depth + 1) for item in value])
        return b"A" + _U32.pack(len(data)) + data
    for kind, encode in _ENCODERS.items():
        if isinstance(value, kind):
            return encode(value)
    raise Unencodable(f"a {type(value).__name__} has no form in an AMQP header; send text instead")


def _encode_text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return b"S" + _U32.pack(len(data)) + data


def _encode_bytes(value: bytes) -> bytes:
    return b"x" + _U32.pack(len(value)) + bytes(value)


def _encode_int(value: int) -> bytes:
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return struct.pack(">ci", b"I", value)
    if -(1 << 63) <= value < 1 << 63:
        return struct.pack(">cq", b"l", value)
    raise Unencodable(f"{value}: an integer in an AMQP header has 64 bits; send text instead")


def _encode_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    number = int("".join(map(str, digits)) or "0")
    if not isinstance(exponent, int) or not -255 <= exponent <= 0 or number >= 1 << 31:
        raise Unencodable(f"{value}: no decimal of AMQP; send text instead")
    return struct.pack(">cBi", b"D", -exponent, -number if sign else number)


def _encode_datetime(value: datetime) -> bytes:
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    return b"T" + _U64.pack(int(value.timestamp()))


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    str: _encode_text,
    bool: lambda value: b"t\x01" if value else b"t\x00",
    int: _encode_int,
    type(None): lambda value: b"V",
    float: lambda value: struct.pack(">cd", b"d", value),
    bytes: _encode_bytes,
    Decimal: _encode_decimal,
    datetime: _encode_datetime,
}


def decode_table(data: bytes, offset: int = 0, depth: int = 0) -> tuple[dict[str, Any], int]:
    """A field table and where it ends.

    :raises Undecodable: and nothing else, whatever the bytes are.
    """
    try:
        return _table(data, offset, depth)
    except (struct.error, IndexError, OverflowError, ValueError) as exc:
        raise Undecodable(f"no field table: {exc}") from exc


def _table(data: bytes, offset: int, depth: int) -> tuple[dict[str, Any], int]:
    if depth > DEPTH_MAX:
        raise Undecodable(f"tables nested more than {DEPTH_MAX} deep")
    (size,) = _U32.unpack_from(data, offset)
    offset += 4
    end = offset + size
    if end > len(data):
        raise Undecodable("a table that is longer than its bytes")
    table: dict[str, Any] = {}
    while offset < end:
        length = data[offset]
        offset += 1
        key = data[offset : offset + length].decode("utf-8", "surrogateescape")
        offset += length
        kind = data[offset]
        offset += 1
        if kind == 0x53:  # S: by far the most
            length = _U32.unpack_from(data, offset)[0]
            offset += 4
            table[key] = _text_or_bytes(data[offset : offset + length], length)
            offset += length
        elif kind == 0x56:  # V
            table[key] = None
        else:
            table[key], offset = _value(kind, data, offset, depth)
    if offset != end:
        raise Undecodable("a value that is longer than its table")
    return table, end


def decode_entry(data: bytes, offset: int) -> tuple[str, Any, int]:
    """One entry of a table that was read before: key, value, and where it ends."""
    start = offset + 1
    offset = start + data[offset]
    key = data[start:offset].decode("utf-8", "surrogateescape")
    value, offset = _value(data[offset], data, offset + 1, 0)
    return key, value, offset


def _text_or_bytes(raw: bytes, length: int) -> str | bytes:
    if len(raw) != length:
        raise Undecodable("a string that is longer than its bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw  # a long string may hold anything


def _value(kind: int, data: bytes, offset: int, depth: int) -> tuple[Any, int]:
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return fixed.unpack_from(data, offset)[0], offset + fixed.size
    if kind == 0x74:  # t
        return data[offset] != 0, offset + 1
    if kind == 0x56:  # V
        return None, offset
    if kind in (0x53, 0x78):  # S, x
        length = _U32.unpack_from(data, offset)[0]
        offset += 4
        raw = data[offset : offset + length]
        return (bytes(raw) if kind == 0x78 else _text_or_bytes(raw, length)), offset + length
    if kind == 0x46:  # F
        return _table(data, offset, depth + 1)
    if kind == 0x41:  # A
        return _array(data, offset, depth + 1)
    if kind == 0x54:  # T
        seconds = _U64.unpack_from(data, offset)[0]
        # Not `fromtimestamp`: what the system says of a moment beyond its calendar is an OSError.
        return _EPOCH + timedelta(seconds=seconds), offset + 8
    if kind == 0x44:  # D
        places, number = struct.unpack_from(">Bi", data, offset)
        return Decimal(number).scaleb(-places), offset + 5
    raise Undecodable(f"a value of the unknown type {kind:#x}")


def _array(data: bytes, offset: int, depth: int) -> tuple[list[Any], int]:
    if depth > DEPTH_MAX:
        raise Undecodable(f"arrays nested more than {DEPTH_MAX} deep")
    (size,) = _U32.unpack_from(data, offset)
    offset += 4
    end = offset + size
    if end > len(data):
        raise Undecodable("an array that is longer than its bytes")
    items: list[Any] = []
    while offset < end:
        value, offset = _value(data[offset], data, offset + 1, depth)
        items.append(value)
    if offset != end:
        raise Undecodable("a value that is longer than its array")
    return items, end


_FIXED = {
    ord("b"): struct.Struct(">b"),
    ord("B"): struct.Struct(">B"),
    ord("s"): struct.Struct(">h"),
    ord("u"): struct.Struct(">H"),
    ord("I"): struct.Struct(">i"),
    ord("i"): struct.Struct(">I"),
    ord("l"): struct.Struct(">q"),
    ord("L"): struct.Struct(">q"),
    ord("f"): struct.Struct(">f"),
    ord("d"): struct.Struct(">d"),
}


# --- properties --------------------------------------------------------------------------------------


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """Flags and values; what is None or no property of AMQP is left out.

    :raises Unencodable: a value without a form.
    """
    flags = 0
    parts: list[bytes] = []
    for name in PROPERTIES:
        value = properties.get(name)
        if value is None:
            continue
        flags |= _FLAGS[name]
        if name in _TEXTS:
            parts.append(short_text(value if isinstance(value, str) else str(value)))
        elif name == "headers":
            parts.append(encode_table(value))
        elif name == "timestamp":
            parts.append(_U64.pack(int(value.timestamp() if isinstance(value, datetime) else value)))
        else:
            parts.append(bytes((min(max(int(value), 0), 255),)))
    return _U16.pack(flags) + b"".join(parts)


def decode_properties(data: bytes, offset: int = 0) -> dict[str, Any]:
    """The properties of a content header, from its flags on.

    :raises Undecodable: and nothing else.
    """
    try:
        (flags,) = _U16.unpack_from(data, offset)
        offset += 2
        found: dict[str, Any] = {}
        for name in PROPERTIES:
            if not flags & _FLAGS[name]:
                continue
            if name == "headers":
                found[name], offset = _table(data, offset, 0)
            else:
                found[name], offset = decode_value(name, data, offset)
        if offset > len(data):
            raise Undecodable("properties that are longer than their frame")
    except (struct.error, IndexError, OverflowError, ValueError) as exc:
        raise Undecodable(f"no properties: {exc}") from exc
    return found


def decode_value(name: str, data: bytes, offset: int) -> tuple[Any, int]:
    """The value of a property other than the headers, and where it ends. For callers that check the end.

    :raises struct.error: the bytes are over.
    :raises IndexError: likewise.
    """
    if name in _TEXTS:
        end = offset + 1 + data[offset]
        return data[offset + 1 : end].decode("utf-8", "surrogateescape"), end
    if name == "timestamp":
        return _U64.unpack_from(data, offset)[0], offset + 8
    return data[offset], offset + 1
