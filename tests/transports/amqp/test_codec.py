"""Field tables and properties: what goes in comes out, nothing else than a typed error otherwise."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from amqp.serialization import dumps, loads
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp.codec import (
    DEPTH_MAX,
    Undecodable,
    Unencodable,
    decode_properties,
    decode_table,
    encode_properties,
    encode_table,
    short_text,
)

NAMES = st.text(max_size=20)
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=50),
    st.binary(max_size=50),
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)).map(
        lambda value: value.replace(microsecond=0, tzinfo=timezone.utc)
    ),
    st.integers(-(2**31) + 1, 2**31 - 1).map(lambda number: Decimal(number).scaleb(-3)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)


@given(TABLES)
def test_a_table_comes_back_as_it_went(table: dict[str, Any]) -> None:
    data = encode_table(table)
    assert decode_table(data) == (table, len(data))


@given(TABLES)
def test_a_peer_reads_our_tables(table: dict[str, Any]) -> None:
    (read,), _ = loads("F", encode_table(table), 0)
    assert {name: _plain(value) for name, value in read.items()} == {n: _plain(v) for n, v in table.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


@given(
    st.dictionaries(NAMES, st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=9))
)
def test_we_read_the_tables_of_a_peer(table: dict[str, Any]) -> None:
    assert decode_table(dumps("F", [table]))[0] == table


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_only_a_typed_error_comes_of_it(data: bytes) -> None:
    for decode in (decode_table, decode_properties):
        try:
            decode(data)
        except Undecodable:
            continue


@given(TABLES, st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_table_is_read_or_refused(table: dict[str, Any], where: int, byte: int) -> None:
    data = bytearray(encode_table(table))
    data[where % len(data)] = byte
    try:
        found, end = decode_table(bytes(data))
    except Undecodable:
        return
    assert isinstance(found, dict) and end <= len(data)


@pytest.mark.parametrize("seconds", [253_402_300_800, 2**56, 2**63, 2**64 - 1])
def test_a_moment_beyond_the_calendar_is_refused(seconds: int) -> None:
    value = b"\x01xT" + seconds.to_bytes(8, "big")
    with pytest.raises(Undecodable):
        decode_table(len(value).to_bytes(4, "big") + value)


def test_nesting_has_an_end_in_both_directions() -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX + 2):
        deep = [deep]
    with pytest.raises(Unencodable):
        encode_table({"x": deep})
    nested: dict[str, Any] = {}
    for _ in range(DEPTH_MAX + 3):
        nested = {"x": nested}
    with pytest.raises(Unencodable):
        encode_table(nested)
    data = b"\x00\x00\x00\x00"
    for _ in range(DEPTH_MAX + 3):
        inner = b"\x01xF" + data
        data = len(inner).to_bytes(4, "big") + inner
    with pytest.raises(Undecodable):
        decode_table(data)


@pytest.mark.parametrize(
    "value", [1 << 63, -(1 << 63) - 1, object(), {1, 2}, Decimal("NaN"), Decimal(2) ** 40, Decimal("1e9")]
)
def test_what_has_no_form_is_refused_by_name(value: Any) -> None:
    with pytest.raises(Unencodable):
        encode_table({"x": value})


class Shouting(str):
    """A text of a class of its own."""


def test_subclasses_travel_as_what_they_are() -> None:
    table = {"x": Shouting("hey"), "y": (1, 2)}
    assert decode_table(encode_table(table))[0] == {"x": "hey", "y": [1, 2]}


def test_a_naive_datetime_is_utc() -> None:
    decoded = decode_table(encode_table({"x": datetime(2024, 1, 2)}))[0]
    assert decoded == {"x": datetime(2024, 1, 2, tzinfo=timezone.utc)}


def test_a_long_string_that_is_no_text_stays_bytes() -> None:
    assert decode_table(b"\x00\x00\x00\x09\x01xS\x00\x00\x00\x02\xff\xfe")[0] == {"x": b"\xff\xfe"}


def test_a_name_of_more_than_255_bytes_is_refused() -> None:
    assert short_text("é" * 127) == b"\xfe" + "é".encode() * 127
    with pytest.raises(Unencodable):
        short_text("é" * 128)


def test_properties_come_back_as_they_went() -> None:
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"task": "t", "retries": 0},
        "delivery_mode": 2,
        "priority": 9,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "user_id": "u",
        "app_id": "a",
        "cluster_id": "c",
    }
    assert decode_properties(encode_properties(properties)) == properties
    assert decode_properties(encode_properties({"priority": None, "nonsense": 1})) == {}
    moment = datetime(2024, 1, 2, tzinfo=timezone.utc)
    assert decode_properties(encode_properties({"timestamp": moment})) == {
        "timestamp": int(moment.timestamp())
    }
    assert decode_properties(encode_properties({"priority": 999}))["priority"] == 255


@pytest.mark.parametrize("flags", [b"\xff\xfc", b"\x80\x00", b"\x20\x00\x00\x00\x00\x05a", b"\x00"])
def test_properties_that_end_early_are_refused(flags: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_properties(flags)
