"""Documents become messages of kombu, and messages become documents again."""

from __future__ import annotations

import json
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.base import Message
from prefork.transports.envelope import decode, encode
from prefork.transports.kombu.documents import CAUSES, CRASHES, DUE, QUEUE, parts_of, received
from prefork.transports.kombu.holdings import entry_of

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def through(document: bytes, priority: int = 0, **marks: Any) -> Any:
    """Publish and receive, without a broker between."""
    parts = parts_of(document, priority, marks)
    handle = SimpleNamespace(
        body=parts.body,
        content_type=parts.content_type,
        content_encoding=parts.content_encoding,
        headers=json.loads(json.dumps(parts.headers)),
        properties={**parts.properties, "priority": parts.priority, "delivery_tag": "theirs"},
        delivery_info={"exchange": "", "routing_key": "q"},
    )
    return received(handle, "q")


def test_what_py_amqp_shows_among_the_properties_is_said_once() -> None:
    apart = {"content_type": "application/json", "content_encoding": "utf-8"}
    handle = SimpleNamespace(
        body=b"[]",
        headers={"task": "t", CRASHES: 2},
        properties={
            **apart,
            "application_headers": {"task": "t", CRASHES: 2},
            "correlation_id": "c",
            "priority": 3,
        },
        delivery_info={"exchange": "", "routing_key": "q"},
        **apart,
    )
    came = received(handle, "q")
    parts = parts_of(came.document, came.priority, came.marks)
    assert decode(came.document).message().headers == {"task": "t"}
    assert (parts.properties, parts.content_type, parts.priority) == (
        {"correlation_id": "c"},
        "application/json",
        3,
    )
    assert parts.headers == handle.headers


@given(
    body=st.binary(max_size=50),
    headers=st.dictionaries(text, st.integers() | text | st.none(), max_size=4),
    priority=st.integers(0, 9),
    correlation_id=text,
)
def test_an_envelope_keeps_its_meaning(
    body: bytes, headers: dict[str, Any], priority: int, correlation_id: str
) -> None:
    properties = {"correlation_id": correlation_id, "priority": priority, "reply_to": "r", "app_id": "own"}
    sent = Message(body, "application/json", "utf-8", headers, properties)
    came = decode(through(encode(sent), priority).document).message()
    assert (came.body, came.content_type, came.content_encoding) == (body, "application/json", "utf-8")
    assert came.headers == headers
    assert {name: came.properties[name] for name in properties} == properties


@given(st.binary(max_size=100), st.integers(-20, 20))
def test_a_document_that_is_no_envelope_comes_byte_for_byte(document: bytes, priority: int) -> None:
    came = through(document, priority)
    assert came.document == document
    assert came.priority == min(max(priority, 0), 9)


def test_a_compressed_body_stays_compressed() -> None:
    squeezed = zlib.compress(b"[]")
    headers = {"compression": "application/x-gzip"}
    came = decode(through(encode(Message(squeezed, "application/json", "utf-8", headers, {}))).document)
    assert (came.body, json.loads(bytes(came.headers))) == (squeezed, headers)


def test_typed_headers_are_kept() -> None:
    headers = {"at": {"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"}}
    document = encode(Message(b"[]", "application/json", "utf-8", headers, {}))
    parts = parts_of(document, 0)
    assert parts.headers["at"].year == 2026
    handle = SimpleNamespace(
        body="[]",
        content_type=None,
        content_encoding=None,
        headers=parts.headers,
        properties=None,
        delivery_info=None,
    )
    came = decode(received(handle, "q").document)
    assert json.loads(bytes(came.headers)) == headers
    assert (came.body, came.content_type) == (b"[]", "application/data")


def test_headers_of_an_unknown_type_are_not_looked_into() -> None:
    document = encode(
        Message(b"[]", "application/json", "utf-8", {"x": {"__type__": "?", "__value__": 1}}, {})
    )
    assert through(document).document == document


@pytest.mark.parametrize("body", [None, "", b"", memoryview(b"m"), bytearray(b"m")])
def test_every_kind_of_body_is_read(body: Any) -> None:
    handle = SimpleNamespace(
        body=body, content_type="t/x", content_encoding="", headers=None, properties={}, delivery_info={}
    )
    assert decode(received(handle, "q").document).body == bytes(body or b"")


def test_our_marks_are_read_and_not_shown() -> None:
    came = through(b"doc", **{CRASHES: 2, CAUSES: ["signal 9", 7], DUE: 5, QUEUE: "home"})
    entry = entry_of(came)
    assert (entry.crashes, entry.causes, entry.due_wall_s, entry.home) == (2, ("signal 9", "7"), 5.0, "home")
    document = encode(Message(b"[]", "application/json", "utf-8", {"id": 1}, {}))
    assert json.loads(bytes(decode(through(document, **{CRASHES: 2}).document).headers)) == {"id": 1}


@pytest.mark.parametrize(
    "marks",
    [
        {CRASHES: "many", CAUSES: "one", DUE: "soon", QUEUE: "home"},
        {CRASHES: -1, CAUSES: None, DUE: 3},
        {DUE: 3, QUEUE: 7},
    ],
)
def test_marks_that_make_no_sense_are_not_looked_at(marks: dict[str, Any]) -> None:
    entry = entry_of(through(b"doc", **marks))
    assert (entry.crashes, entry.causes, entry.due_wall_s, entry.home) == (0, (), None, "")
