from __future__ import annotations

import enum
import math
import uuid
from collections import namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import kombu.utils.json as kombu_json
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.serializers.base import DecodeError, DecodeFault, EncodeError, Serializer
from prefork.serializers.json import JsonSerializer, _make_encoder

JSON = JsonSerializer()

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=st.timezones())
)
_values = st.recursive(
    _scalars, lambda part: st.lists(part) | st.dictionaries(st.text().filter(lambda k: k[:2] != "__"), part)
)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


def _same(left: Any, right: Any) -> bool:
    return bool(repr(left) == repr(right))


def test_it_is_a_serializer() -> None:
    assert isinstance(JSON, Serializer)
    assert (JSON.name, JSON.content_type, JSON.content_encoding) == ("json", "application/json", "utf-8")


@pytest.mark.slow
@given(_values)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_what_kombu_writes_and_both_read_it_alike(value: Any) -> None:
    written = JSON.dumps(value)
    assert written == str(kombu_json.dumps(value)).encode("ascii")
    assert _same(JSON.loads(written), kombu_json.loads(written))


@pytest.mark.slow
@given(_plain)
@settings(max_examples=300, deadline=None)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert _same(JSON.loads(JSON.dumps(value)), value)


@given(st.text(alphabet='{}[]":,0123456789.eE+-truefalsn\\ud8NaInity _typvl ') | st.text())
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_as_kombu_reads_it_or_refused(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    try:
        expected = kombu_json.loads(data)
    except (ValueError, RecursionError, TypeError):
        with pytest.raises(DecodeError):
            JSON.loads(data)
    else:
        assert _same(JSON.loads(data), expected)


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        JSON.loads(data)
    except DecodeError as error:
        assert error.reason in (DecodeFault.MALFORMED, DecodeFault.TOO_DEEP)


class Colour(str, enum.Enum):
    RED = "red"


Point = namedtuple("Point", "x y")


class Own:
    def __json__(self) -> dict[str, int]:
        return {"own": 1}


class Order:
    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 1, 2, tzinfo=timezone.utc), '"datetime", "__value__": "2024-01-02T00:00:00+00:00"'),
        (datetime(2024, 1, 2, 3, 4, 5, 6), '"datetime", "__value__": "2024-01-02T03:04:05.000006"'),
        (date(2024, 1, 2), '"date", "__value__": "2024-01-02"'),
        (time(3, 4), '"time", "__value__": "03:04:00"'),
        (Decimal("1.50"), '"decimal", "__value__": "1.50"'),
        (uuid.UUID(int=5), '"uuid", "__value__": {"hex": "00000000000000000000000000000005"}'),
        (b"abc", '"bytes", "__value__": "abc"'),
        (b"\xff\xfe", '"base64", "__value__": "//4="'),
    ],
)
def test_extended_types_have_the_form_that_peers_know(value: Any, text: str) -> None:
    written = JSON.dumps(value)
    assert written.decode() == '{"__type__": ' + text + "}"
    back = JSON.loads(written)
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, 2), [1, 2]),
        (Point(1, 2), [1, 2]),
        (Colour.RED, "red"),
        (Own(), {"own": 1}),
        ({1: 2, None: 3, False: 4, 1.5: 5}, {"1": 2, "null": 3, "false": 4, "1.5": 5}),
        ("\ud800", "\ud800"),
        (10**400, 10**400),
        (-(10**30), -(10**30)),
        (math.inf, math.inf),
        ("ünï\x00", "ünï\x00"),
    ],
)
def test_other_values_are_lowered_as_json_does(value: Any, read: Any) -> None:
    assert JSON.loads(JSON.dumps(value)) == read


def test_a_lazy_text_of_django_is_written_as_the_text() -> None:
    promise = type("Promise", (), {"__module__": "django.utils.functional"})
    lazy = type("Lazy", (promise,), {"__str__": lambda self: "translated"})
    assert JSON.dumps([lazy()]) == b'["translated"]'


def test_an_error_does_not_quote_the_arguments() -> None:
    with pytest.raises(DecodeError) as caught:
        JSON.loads(b'[{"__type__": "datetime", "__value__": "the secret"}]')
    assert "datetime" in str(caught.value) and "secret" not in str(caught.value)


def test_not_a_number_comes_back() -> None:
    assert JSON.dumps([math.nan]) == b"[NaN]"
    assert math.isnan(JSON.loads(b"[NaN]")[0])


def test_a_two_key_object_is_recognised_however_its_keys_are_escaped() -> None:
    assert JSON.loads(b'{"\\u005f_type__": "bytes", "__value__": "x"}') == b"x"
    assert JSON.loads(b'{"\\u005F\\u005Ftype\\u005F_": "bytes", "_\\u005fvalue__": "x"}') == b"x"


def test_an_object_with_a_third_key_is_left_alone() -> None:
    text = b'{"__type__": "bytes", "__value__": "x", "more": 1}'
    assert JSON.loads(text) == {"__type__": "bytes", "__value__": "x", "more": 1}


def test_times_of_other_producers_are_read_alike_on_every_python() -> None:
    text = b'[{"__type__": "datetime", "__value__": "2024-01-02T03:04:05Z"}]'
    assert JSON.loads(text) == [datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)]


@pytest.mark.parametrize(
    "text",
    [
        b'{"__type__": "nobody", "__value__": 1}',
        b'{"__type__": ["x"], "__value__": 1}',
        b'{"__type__": "uuid", "__value__": 5}',
        b'{"__type__": "uuid", "__value__": {"hex": "zz"}}',
        b'{"__type__": "decimal", "__value__": "abc"}',
        b'{"__type__": "bytes", "__value__": 5}',
        b'{"__type__": "base64", "__value__": "x"}',
        b'{"__type__": "datetime", "__value__": "never"}',
        b"[" + b"7" * 5000 + b"]",
        b"\xef\xbb\xbf[]",
        b'["\xff"]',
        b"[1, 2",
        b"",
        b"nul",
    ],
)
def test_what_is_not_json_is_refused_as_malformed(text: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        JSON.loads(text)
    assert caught.value.reason is DecodeFault.MALFORMED


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"__type__":'])
def test_nesting_of_100000_is_refused_as_too_deep(opening: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        JSON.loads(opening * 100_000)
    assert caught.value.reason is DecodeFault.TOO_DEEP


def test_a_registered_type_goes_there_and_back_in_its_own_instance_only() -> None:
    taught = JsonSerializer()
    taught.register_type(Order, "order", lambda order: order.number, Order)
    taught.register_type(timedelta, None, lambda delta: delta.total_seconds())
    order, seconds = taught.loads(taught.dumps([Order(7), timedelta(minutes=1)]))
    assert (order.number, seconds) == (7, 60.0)
    with pytest.raises(EncodeError):
        JSON.dumps(Order(7))


@pytest.mark.parametrize(
    ("value", "path", "what", "remedy"),
    [
        ([1, {"user": Order(1)}], "[1]['user']", "<class Order>", "pass an id"),
        ({"a": ({1, 2},)}, "['a'][0]", "<class set>", "pass an id"),
        ({(1, 2): 3}, "[<tuple>]", "a key of <class tuple>", "string keys"),
        ({5: {b"k": 1}}, "[5][<bytes>]", "a key of <class bytes>", "string keys"),
        (object(), "value", "<class object>", "pass an id"),
        ([timedelta(1)], "[0]", "<class timedelta>", "pass an id"),
    ],
)
def test_an_encoding_error_names_the_place_the_type_and_the_remedy(
    value: Any, path: str, what: str, remedy: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        JSON.dumps(value)
    text = str(caught.value)
    assert text.startswith(f"{path}: {what} cannot be encoded as json") and remedy in text


def test_a_value_that_contains_itself_is_named() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    with pytest.raises(EncodeError, match=r"\[1\]\['again'\]: <class list>.*contains itself"):
        JSON.dumps(loop)


def test_a_value_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="nested too deeply"):
        JSON.dumps(deep)
    while deep:  # taken apart from the outside, or its end would overflow the stack
        deep = deep[0]


def test_a_value_whose_own_lowering_raises_is_named() -> None:
    class Broken:
        def __json__(self) -> Any:
            raise RuntimeError("no")

    with pytest.raises(EncodeError, match=r"\['x'\]: <class .*Broken>"):
        JSON.dumps({"x": Broken()})


def test_a_container_that_cannot_be_blamed_on_a_part_shows_the_cause() -> None:
    class Odd(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("cannot list")

    with pytest.raises(EncodeError, match="cannot list"):
        JSON.dumps(Odd(a=1))


def test_without_the_c_encoder_the_output_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    slow = _make_encoder(JSON._lower)
    monkeypatch.undo()
    value = [1, "é", {"a": b"x", "b": [None, 1.5]}]
    assert slow(value) == JSON.dumps(value)
