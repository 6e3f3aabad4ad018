"""Whatever a reader remembers, it reads what reading entry by entry gives, or refuses what that refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefork.transports.amqp import layouts
from prefork.transports.amqp.codec import Undecodable, decode_properties, encode_properties, encode_table
from prefork.transports.amqp.documents import is_plain
from prefork.transports.amqp.layouts import LAYOUTS_MAX, PropertiesReader, layout_of

TEXTS = st.text(max_size=6)
VALUES = st.one_of(
    TEXTS,
    st.sampled_from([None, True, 0, 1, 2.5, [None, None], ["a"], {}, {"k": "v"}, b"raw"]),
)
HEADERS = st.dictionaries(st.sampled_from(["id", "task", "args", "retries", "x-other"]), VALUES)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "headers": HEADERS,
        "content_type": TEXTS,
        "priority": st.integers(0, 9),
        "correlation_id": TEXTS,
        "timestamp": st.integers(0, 2**40),
    },
)


def usual(task_id: str, **more: Any) -> dict[str, Any]:
    headers = {
        "lang": "py",
        "task": "t",
        "id": task_id,
        "retries": 0,
        "timelimit": [None, None],
        "args": "()",
    }
    return {"content_type": "application/json", "headers": {**headers, **more}, "delivery_mode": 2}


def outcome(read: Any, data: bytes) -> Any:
    try:
        return read(data)
    except Undecodable:
        return "undecodable"


@given(st.lists(PROPERTIES, max_size=12))
def test_a_reader_reads_what_the_codec_reads(history: list[dict[str, Any]]) -> None:
    reader = PropertiesReader()
    for properties in [*history, *history]:
        data = encode_properties(properties)
        found, plain = reader.read(data)
        assert found == decode_properties(data)
        assert list(found.get("headers", ())) == list(decode_properties(data).get("headers", ()))
        assert not plain or is_plain(found.get("headers", {}))


@given(PROPERTIES, st.data())
@example(usual("some-id"), None)
def test_damaged_bytes_are_read_or_refused_alike(properties: dict[str, Any], data: Any) -> None:
    reader = PropertiesReader()
    whole = encode_properties(properties)
    reader.read(whole)
    if data is None:
        damages = [(at, bytes((whole[at] ^ 1,))) for at in range(len(whole))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        damages = [(at, data.draw(st.binary(max_size=4)))]
    for at, instead in damages:
        damaged = whole[:at] + instead + whole[at + 1 :]
        assert outcome(lambda given: reader.read(given)[0], damaged) == outcome(decode_properties, damaged)
        assert outcome(lambda given: reader.read(given)[0], whole[:at]) == outcome(
            decode_properties, whole[:at]
        )


def test_what_looks_alike_is_not_read_entry_by_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PropertiesReader()
    reader.read(encode_properties(usual("first")))
    monkeypatch.delattr(layouts, "decode_table")
    found, plain = reader.read(encode_properties(usual("a second one, much longer", args="(1, 2)")))
    assert plain
    assert found == usual("a second one, much longer", args="(1, 2)")


def test_a_text_that_is_not_utf_8_stays_bytes() -> None:
    reader = PropertiesReader()
    reader.read(encode_properties(usual("abcd")))
    damaged = encode_properties(usual("abcd")).replace(b"abcd", b"\xff\xfe\xfd\xfc")
    found, plain = reader.read(damaged)
    assert found["headers"]["id"] == b"\xff\xfe\xfd\xfc"
    assert not plain


def test_values_that_json_has_no_form_for_are_not_called_plain() -> None:
    reader = PropertiesReader()
    for task_id in ("first", "second"):
        found, plain = reader.read(encode_properties(usual(task_id, raw=[b"bytes"])))
        assert found["headers"]["raw"] == [b"bytes"]
        assert not plain


def test_a_table_with_a_key_twice_is_not_remembered() -> None:
    entry = encode_table({"k": "v"})[4:]
    table = len(entry * 2).to_bytes(4, "big") + entry * 2
    data = b"\x20\x00" + table
    assert layout_of(table, 0, {"k": "v"}, len(table)) is None
    reader = PropertiesReader()
    assert [reader.read(data) for _ in range(2)] == [({"headers": {"k": "v"}}, False)] * 2


def test_the_number_of_layouts_is_bounded_and_the_latest_ones_stay() -> None:
    reader = PropertiesReader()
    for _ in range(3):
        for number in range(3 * LAYOUTS_MAX):
            reader.read(encode_properties(usual("id", **{f"header-{number}": 0})))
    assert len(reader._layouts) == LAYOUTS_MAX


def test_where_no_two_messages_are_alike_few_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[int] = []
    monkeypatch.setattr(
        layouts,
        "layout_of",
        lambda data, offset, table, end: learnt.append(end) or layout_of(data, offset, table, end),
    )
    reader = PropertiesReader()
    for number in range(1600):
        reader.read(encode_properties(usual("id", number=number)))
    assert 0 < len(learnt) <= 1600 // 16 + 8
    learnt.clear()
    for _ in range(64):
        reader.read(encode_properties(usual("id", number=-1)))
    assert len(learnt) == 1, "a task that comes again and again is learnt soon"
