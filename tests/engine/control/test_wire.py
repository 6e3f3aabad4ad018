"""The form of requests and replies: what Celery's peers write is read, and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.control.wire import (
    REQUEST_BYTES_MAX,
    MalformedControl,
    Reply,
    ReplyTo,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from prefork.serializers.registry import SerializerTable
from prefork.transports.base import Message

TABLE = SerializerTable({"json", "pickle"}, ("json",))

# As Celery 5.7 sends it (interop §11.2).
PING = {
    "method": "ping",
    "arguments": {},
    "destination": ["w@h"],
    "pattern": None,
    "matcher": None,
    "ticket": "1c322d56-f948-441a-a2e9-5b639cc81933",
    "reply_to": {
        "exchange": "reply.celery.pidbox",
        "routing_key": "501506ad-6aee-3fa4-988a-3f558a032adc",
    },
}


def message(body: Any, **headers: Any) -> Message:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Message(data, "application/json", "utf-8", headers, {})


def test_a_request_of_celerys_is_read() -> None:
    request = decode_request(message(PING, clock=7, expires=12.5), TABLE)
    assert request == Request(
        "ping",
        {},
        ["w@h"],
        None,
        None,
        PING["ticket"],
        ReplyTo("reply.celery.pidbox", "501506ad-6aee-3fa4-988a-3f558a032adc"),
        7,
        12.5,
    )


def test_a_request_is_written_as_celery_writes_it() -> None:
    request = Request(
        "ping",
        {},
        ["w@h"],
        ticket=str(PING["ticket"]),
        reply_to=ReplyTo("reply.celery.pidbox", "501506ad-6aee-3fa4-988a-3f558a032adc"),
        clock=3,
        expires_wall_s=1.5,
    )
    sent = encode_request(request, TABLE, "json")
    assert json.loads(sent.body) == PING
    assert sent.headers == {"clock": 3, "expires": 1.5}
    assert (sent.content_type, sent.content_encoding) == ("application/json", "utf-8")
    assert sent.properties["delivery_mode"] == 2


def test_a_cast_has_no_ticket_and_no_place_for_replies() -> None:
    sent = encode_request(Request("revoke", {"task_id": "tid"}), TABLE, "json")
    assert set(json.loads(sent.body)) == {"method", "arguments", "destination", "pattern", "matcher"}
    assert sent.headers["expires"] == 0
    read = decode_request(sent, TABLE)
    assert (read.ticket, read.reply_to, read.expires_wall_s) == (None, None, None)


def test_a_reply_is_written_as_celery_writes_it() -> None:
    sent = encode_reply(Reply("w@h", {"ok": "pong"}, "t", 9), TABLE, "json")
    assert json.loads(sent.body) == {"w@h": {"ok": "pong"}}
    assert sent.headers == {"ticket": "t", "clock": 9}
    assert sent.properties["delivery_mode"] == 1
    assert decode_reply(sent, TABLE) == Reply("w@h", {"ok": "pong"}, "t", 9)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        {},
        {"method": 7},
        {"method": ""},
        {"method": "x" * 300},
        {"method": "ping", "arguments": [1]},
        {"method": "ping", "destination": "w@h"},
        {"method": "ping", "destination": [1]},
        {"method": "ping", "pattern": 1},
        {"method": "ping", "matcher": []},
        {"method": "ping", "ticket": {}},
        {"method": "ping", "reply_to": "me"},
        {"method": "ping", "reply_to": {}},
        {"method": "ping", "reply_to": {"exchange": "e", "routing_key": 1}},
        {"method": "ping", "reply_to": {"exchange": "e" * 300, "routing_key": "k"}},
        {"method": "ping", "arguments": {"x": "y" * REQUEST_BYTES_MAX}},
    ],
)
def test_what_is_no_request_is_refused(body: Any) -> None:
    with pytest.raises(MalformedControl):
        decode_request(message(body), TABLE)


def test_a_pickle_is_not_read() -> None:
    sent = Message(b"cos\nsystem\n", "application/x-python-serialize", "binary", {}, {})
    with pytest.raises(MalformedControl, match="python-serialize"):
        decode_request(sent, TABLE)


def test_a_content_type_that_is_accepted_but_not_allowed_to_run_code_is_not_read() -> None:
    table = SerializerTable({"json", "pickle"}, ("json", "pickle"))
    sent = encode_request(Request("ping", {}), table, "pickle")
    with pytest.raises(MalformedControl):
        decode_request(sent, table)


@pytest.mark.parametrize("clock", [None, -1, True, "1", 1.5])
@pytest.mark.parametrize("expires", [None, True, "1", -1, float("nan"), float("inf")])
def test_headers_that_make_no_sense_are_no_headers(clock: Any, expires: Any) -> None:
    request = decode_request(message(PING, clock=clock, expires=expires), TABLE)
    assert (request.clock, request.expires_wall_s) == (None, None)


@pytest.mark.parametrize("body", [{}, {"a": 1, "b": 2}, [], b"x"])
def test_what_is_no_reply_is_refused(body: Any) -> None:
    with pytest.raises(MalformedControl):
        decode_reply(message(body), TABLE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
TEXTS = st.none() | st.text(min_size=1)


@given(
    method=st.text(min_size=1, max_size=50),
    arguments=st.dictionaries(st.text(min_size=1), VALUES),
    destination=st.none() | st.lists(st.text(min_size=1), min_size=1),
    pattern=TEXTS,
    matcher=TEXTS,
    clock=st.integers(0, 2**53),
)
def test_every_request_arrives_as_it_was_sent(**fields: Any) -> None:
    request = Request(**fields)
    assert decode_request(encode_request(request, TABLE, "json"), TABLE) == request


@given(
    body=st.binary() | VALUES.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(st.text(), VALUES),
)
def test_whatever_comes_is_a_request_or_refused(body: bytes, headers: dict[str, Any]) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decode(Message(body, "application/json", "utf-8", headers, {}), TABLE)
        except MalformedControl:
            continue  # the only error there is
