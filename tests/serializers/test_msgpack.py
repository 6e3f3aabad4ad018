from __future__ import annotations

from datetime import datetime
from typing import Any

import kombu.serialization
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.serializers.base import DecodeError, DecodeFault, EncodeError, Serializer
from prefork.serializers.msgpack import ITEMS_MAX, MsgpackSerializer

MSGPACK = MsgpackSerializer()

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


def test_it_is_a_serializer() -> None:
    assert isinstance(MSGPACK, Serializer)
    assert MSGPACK.content_type == "application/x-msgpack"
    assert MSGPACK.content_encoding == "binary"


@given(_values)
@settings(deadline=None)
def test_values_come_back_and_peers_read_them(value: Any) -> None:
    written = MSGPACK.dumps(value)
    assert MSGPACK.loads(written) == value
    theirs = kombu.serialization.loads(written, MSGPACK.content_type, "binary", force=True)
    assert theirs == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        MSGPACK.loads(data)
    except DecodeError as error:
        assert error.reason in (DecodeFault.MALFORMED, DecodeFault.TOO_DEEP)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x91" * 100_000 + b"\xc0", DecodeFault.TOO_DEEP),
        (b"\x81\xa1a" * 100_000 + b"\xc0", DecodeFault.TOO_DEEP),
        (b"\xdd\xff\xff\xff\xff", DecodeFault.MALFORMED),
        (b"\xdd" + (ITEMS_MAX + 1).to_bytes(4, "big") + b"\xc0", DecodeFault.MALFORMED),
        (b"\xdf\xff\xff\xff\xff", DecodeFault.MALFORMED),
        (b"\xdb\xff\xff\xff\xff", DecodeFault.MALFORMED),
        (b"\xc6\xff\xff\xff\xff", DecodeFault.MALFORMED),
        (b"\xd4\x05\x00", DecodeFault.MALFORMED),
        (b"\xc7\xff\x05" + b"\x00" * 255, DecodeFault.MALFORMED),
        (b"\x81\x01\x02", DecodeFault.MALFORMED),
        (b"\x81\x90\x02", DecodeFault.MALFORMED),
        (b"\xa2\xff\xff", DecodeFault.MALFORMED),
        (b"\xc1", DecodeFault.MALFORMED),
        (b"", DecodeFault.MALFORMED),
        (b"\x01\x02", DecodeFault.MALFORMED),
    ],
)
def test_bombs_and_garbage_are_refused(data: bytes, reason: DecodeFault) -> None:
    with pytest.raises(DecodeError) as caught:
        MSGPACK.loads(data)
    assert caught.value.reason is reason


def test_a_timestamp_of_another_producer_is_a_datetime() -> None:
    assert isinstance(MSGPACK.loads(msgpack.packb(msgpack.Timestamp(5, 0))), datetime)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([[1, {"at": datetime(2024, 1, 1)}]], r"\[0\]\[1\]\['at'\]: <class datetime>.*pass an id"),
        ([[{"a": {1: 2}}]], r"\[0\]\[0\]\['a'\]\[1\]: a key of <class int>.*string keys"),
        ({"a": [{1: 2}]}, r"\['a'\]\[0\]\[1\]: a key of <class int>"),
        ([2**64], r"\[0\]: <class int>"),
        (["\ud800"], r"\[0\]: <class str>"),
        ({"a": {1}}, r"\['a'\]: <class set>"),
    ],
)
def test_an_encoding_error_names_the_place_and_the_remedy(value: Any, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        MSGPACK.dumps(value)


def test_a_value_nested_deeper_than_the_format_allows_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(2_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="msgpack"):
        MSGPACK.dumps(deep)
