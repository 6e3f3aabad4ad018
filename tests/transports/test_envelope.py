from __future__ import annotations

import base64
import json
import math
import uuid
from datetime import datetime
from typing import Any

import kombu
import kombu.utils.json as kombu_json
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.transport.virtual import Message as KombuMessage

from prefork.serializers.json import JsonSerializer
from prefork.transports.base import Message
from prefork.transports.envelope import (
    EnvelopeFault,
    MalformedEnvelope,
    clamped_priority,
    decode,
    encode,
    encode_exact,
)
from prefork.transports.identifiers import fresh_id

MESSAGE = Message(
    body=b"[[], {}, {}]",
    content_type="application/json",
    content_encoding="utf-8",
    headers={"task": "a", "mine": [1, None]},
    properties={"priority": 3, "delivery_info": {"exchange": "x", "routing_key": "q"}, "app_id": "me"},
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=4),
    max_leaves=10,
)
_properties = st.fixed_dictionaries(
    {},
    optional={
        "delivery_tag": st.text() | _json,
        "delivery_info": st.fixed_dictionaries({}, optional={"exchange": _json, "routing_key": _json})
        | _json,
        "priority": _json,
        "body_encoding": st.sampled_from(["base64", None]) | _json,
        "correlation_id": _json,
        "reply_to": _json,
        "other": _json,
    },
)
_documents = st.fixed_dictionaries(
    {},
    optional={
        "body": st.binary().map(lambda raw: base64.b64encode(raw).decode()) | _json,
        "content-type": st.just("application/json") | _json,
        "content-encoding": st.just("utf-8") | _json,
        "headers": st.dictionaries(st.text(), _json, max_size=5) | _json,
        "properties": _properties | _json,
        "more": _json,
    },
)


def _parts(**changes: Any) -> dict[str, Any]:
    return {**json.loads(encode(MESSAGE)), **changes}


def test_a_message_comes_back_with_all_its_headers_and_properties() -> None:
    back = decode(encode(MESSAGE, delivery_tag="tag")).message()
    assert (back.body, back.content_type, back.content_encoding) == (
        MESSAGE.body,
        "application/json",
        "utf-8",
    )
    assert back.headers == MESSAGE.headers
    assert back.properties == {**MESSAGE.properties, "body_encoding": "base64", "delivery_tag": "tag"}


def test_kombu_reads_what_is_written() -> None:
    with kombu.Connection("memory://") as connection:
        document = kombu_json.loads(encode(MESSAGE, delivery_tag="tag"))
        theirs = KombuMessage(document, channel=connection.default_channel)
    assert (theirs.delivery_tag, theirs.headers) == ("tag", MESSAGE.headers)
    assert theirs.delivery_info == {"exchange": "x", "routing_key": "q"}
    assert theirs.body == MESSAGE.body


def test_two_copies_of_a_message_have_different_tags() -> None:
    tags = {decode(encode(MESSAGE)).properties.delivery_tag for _ in range(100)}
    assert len(tags) == 100


def test_a_fresh_id_is_a_random_uuid() -> None:
    found = uuid.UUID(fresh_id())
    assert (found.version, found.variant) == (4, uuid.RFC_4122)
    assert len({fresh_id() for _ in range(1000)}) == 1000


def test_headers_may_hold_extended_types_when_both_ends_are_given_the_means() -> None:
    extended = JsonSerializer()
    message = msgspec.structs.replace(MESSAGE, headers={"at": datetime(2024, 1, 2)})
    document = encode(message, dumps=extended.dumps)
    assert decode(document).message(extended.loads).headers == {"at": datetime(2024, 1, 2)}
    assert decode(document).message().headers["at"]["__type__"] == "datetime"


class _Some(msgspec.Struct):
    text: str


class _Tagged(msgspec.Struct):
    delivery_tag: str
    body_encoding: str = "base64"


def test_the_fast_writer_writes_what_the_general_one_reads() -> None:
    document = encode_exact(b"\xff\x00", "a/b", "binary", _Some("é"), _Tagged("tag"))
    found = decode(document)
    assert (found.body, found.content_type, found.content_encoding) == (b"\xff\x00", "a/b", "binary")
    assert found.message().headers == {"text": "é"}
    with pytest.raises(UnicodeEncodeError):
        encode_exact(b"", "a/b", "binary", _Some("\ud800"), _Tagged("tag"))


def test_a_raw_body_is_taken_as_it_is() -> None:
    document = json.dumps(_parts(body="[é]", properties={"delivery_tag": "t"})).encode()
    assert decode(document).body == "[é]".encode()
    document = json.dumps(_parts(body="[1]", properties={"delivery_tag": "t", "body_encoding": ""})).encode()
    assert decode(document).body == b"[1]"


@pytest.mark.parametrize("headers", [None, {}])
def test_null_and_missing_headers_are_none_at_all(headers: Any) -> None:
    parts = _parts(headers=headers, properties={"delivery_tag": "t"})
    assert decode(json.dumps(parts).encode()).message().headers == {}
    del parts["headers"]
    assert decode(json.dumps(parts).encode()).message().headers == {}


def test_missing_content_type_and_encoding_have_the_defaults_of_peers() -> None:
    parts = _parts()
    del parts["content-type"], parts["content-encoding"]
    found = decode(json.dumps(parts).encode())
    assert (found.content_type, found.content_encoding) == ("application/data", "utf-8")


def test_what_only_the_standard_library_takes_is_read_in_a_second_pass() -> None:
    parts = _parts(headers={"nan": math.nan, "surrogate": "\ud800"}, unknown=1)
    headers = decode(json.dumps(parts).encode()).message().headers
    assert math.isnan(headers["nan"]) and headers["surrogate"] == "\ud800"


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        (5, 5),
        (0, 0),
        (9, 9),
        (10, 9),
        (-1, 0),
        (None, 0),
        ("7", 0),
        (7.0, 0),
        (True, 0),
        ([], 0),
        (10**30, 9),
    ],
)
def test_a_priority_is_clamped_and_anything_else_is_zero(priority: Any, expected: int) -> None:
    assert clamped_priority(priority) == expected
    parts = _parts()
    parts["properties"]["priority"] = priority
    assert decode(json.dumps(parts).encode()).priority == expected


def test_a_document_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        decode(encode(MESSAGE), document_bytes_max=100)
    assert caught.value.reason is EnvelopeFault.TOO_LARGE
    assert "too-large" in str(caught.value)


def test_every_reason_has_a_document_in_the_corpus_or_here() -> None:
    from support.corpus import bad_messages

    seen = {bad.reason for bad in bad_messages()} | {EnvelopeFault.TOO_LARGE.value}
    assert {fault.value for fault in EnvelopeFault} <= seen


@pytest.mark.slow
@given(_documents)
@settings(max_examples=1500, deadline=None)
def test_any_document_is_an_envelope_or_malformed(parts: dict[str, Any]) -> None:
    document = json.dumps(parts).encode()
    try:
        found = decode(document)
    except MalformedEnvelope as error:
        assert error.reason in EnvelopeFault and error.detail
        return
    message = found.message()
    assert isinstance(message.headers, dict) and 0 <= found.priority <= 9
    assert isinstance(found.content_type, str) and isinstance(found.body, bytes)


@given(st.binary() | st.text(alphabet='{}[]",:ab\\u0 ').map(str.encode))
@settings(max_examples=500)
def test_any_bytes_are_an_envelope_or_malformed(document: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        decode(document)


_header_values = st.dictionaries(st.text(), _json, max_size=5)


@given(st.binary(), _header_values, st.integers(0, 9))
@settings(deadline=None)
def test_whatever_is_written_is_read_back(body: bytes, headers: dict[str, Any], priority: int) -> None:
    message = Message(body, "a/b", "binary", headers, {"priority": priority})
    back = decode(encode(message)).message()
    assert (back.body, repr(back.headers), back.properties["priority"]) == (body, repr(headers), priority)
