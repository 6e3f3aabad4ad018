from __future__ import annotations

import base64
import json
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.engine.message import Embed, Malformed, MalformedMessage, TaskMessage, parse
from prefork.serializers.base import DecodeFault
from prefork.serializers.compression import compress
from prefork.serializers.registry import SerializerTable
from prefork.transports.envelope import EnvelopeFault
from support.corpus import Bad, bad_messages, document_of, good_document, good_parts

TABLE = SerializerTable(("json", "msgpack"), ("json", "msgpack"))
STEP = {"task": "proj.add", "args": [1], "kwargs": {}}


def _with_body(body: Any, **headers: Any) -> bytes:
    parts = good_parts()
    parts["headers"].update(headers)
    return document_of(parts, json.dumps(body).encode())


def _protocol_1(**body: Any) -> bytes:
    parts = good_parts()
    parts["headers"] = {}
    return document_of(parts, json.dumps({"task": "proj.add", "id": "t1", **body}).encode())


@pytest.mark.parametrize("bad", bad_messages(), ids=lambda bad: bad.name)
def test_every_bad_message_is_refused_with_its_reason(bad: Bad) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse(bad.document, TABLE).payload(TABLE)
    assert caught.value.reason.value == bad.reason
    assert bad.reason in str(caught.value) and len(str(caught.value)) < 2000
    # It is stored, with the dead letter and perhaps as a result.
    for text in (str(caught.value), caught.value.task or "", caught.value.task_id or ""):
        assert text.encode("utf-8").decode("utf-8") == text


def test_the_error_names_the_task_where_it_could_be_read() -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse(good_document(eta="tomorrow"), TABLE)
    error = caught.value
    assert (error.task, error.task_id) == ("proj.add", "11111111-1111-1111-1111-111111111111")
    assert str(error).startswith("proj.add[11111111-1111-1111-1111-111111111111]: bad-eta: ")


def test_every_reason_of_the_layers_below_is_a_reason_here() -> None:
    reasons = {reason.value for reason in Malformed}
    assert {fault.value for fault in EnvelopeFault} <= reasons
    assert {fault.value for fault in DecodeFault} <= reasons


def test_every_reason_occurs_in_the_corpus() -> None:
    seen = {bad.reason for bad in bad_messages()} | {Malformed.REFUSED_HERE.value}
    assert seen == {reason.value for reason in Malformed}


def test_a_good_message_is_read_whole() -> None:
    message = parse(good_document(timelimit=[30, 20.5], priority=None, group="g", group_index=2), TABLE)
    args, kwargs, embed = message.payload(TABLE)
    assert (args, kwargs, embed) == ([2, 2], {}, Embed())
    assert (message.time_limit_s, message.soft_time_limit_s) == (30.0, 20.5)
    assert (message.group, message.group_index, message.origin) == ("g", 2, "gen13061@vm")
    assert (message.reply_to, message.routing_key) == ("590013f8-c302-30d0-9b8a-96edbbd51a1e", "celery")
    assert message.all_headers(TABLE)["argsrepr"] == "(2, 2)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-02T00:00:00+00:00", datetime(2024, 1, 2, tzinfo=timezone.utc)),
        ("2024-01-02T00:00:00", datetime(2024, 1, 2, tzinfo=timezone.utc)),
        ("2024-01-02T14:00:00+14:00", datetime(2024, 1, 2, tzinfo=timezone.utc)),
        ("2024-01-01T10:00:00-14:00", datetime(2024, 1, 2, tzinfo=timezone.utc)),
        ("2024-01-02T00:00:00Z", datetime(2024, 1, 2, tzinfo=timezone.utc)),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_times_are_unix_times_and_naive_ones_are_utc(text: str, expected: datetime | None) -> None:
    message = parse(good_document(eta=text, expires=text), TABLE)
    assert message.eta_wall_s == message.expires_wall_s
    if expected is not None:
        assert message.eta_wall_s == expected.timestamp()
    else:
        assert message.eta_wall_s is not None and abs(message.eta_wall_s) > 6e10


@pytest.mark.parametrize("timelimit", [None, [None, None], [0, 0], [0, None], [0.0, None]])
def test_a_limit_of_zero_on_the_wire_is_none_as_it_is_for_peers(timelimit: Any) -> None:
    message = parse(good_document(timelimit=timelimit), TABLE)
    assert (message.time_limit_s, message.soft_time_limit_s) == (None, None)


@pytest.mark.parametrize(
    ("priority", "read"), [(-1, 0), (0, 0), (9, 9), (20, 20), (255, 255), (256, 255), ("7", 0), (True, 0)]
)
def test_a_priority_is_one_of_those_that_a_message_can_bear(priority: object, read: int) -> None:
    parts = good_parts()
    parts["properties"]["priority"] = priority
    assert parse(document_of(parts), TABLE).priority == read


def test_only_task_and_id_are_needed() -> None:
    parts = good_parts()
    parts["headers"] = {"task": "proj.add", "id": "1"}
    parts["properties"] = {"delivery_tag": "t", "body_encoding": "base64"}
    message = parse(document_of(parts), TABLE)
    assert message.payload(TABLE)[0] == [2, 2]
    assert (message.retries, message.ignore_result, message.root_id) == (0, None, None)
    assert (message.exchange, message.routing_key, message.priority) == ("", "", 0)


def test_loose_types_of_other_producers_are_understood() -> None:
    uuid_text = "00000000-0000-0000-0000-000000000005"
    document = good_document(
        id={"__type__": "uuid", "__value__": {"hex": uuid_text.replace("-", "")}},
        eta={"__type__": "datetime", "__value__": "2024-01-02T00:00:00+00:00"},
        retries=2.0,
        group_index=1.0,
        ignore_result=1,
        replaced_task_nesting=None,
        stamped_headers=["a"],
        stamps={"a": {"__type__": "bytes", "__value__": "x"}},
    )
    message = parse(document, TABLE)
    assert (message.id, message.retries, message.group_index, message.ignore_result) == (
        uuid_text,
        2,
        1,
        True,
    )
    assert message.eta_wall_s == 1704153600.0
    assert message.stamps == {"a": b"x"}


def test_headers_with_a_lone_surrogate_or_nan_are_read() -> None:
    message = parse(good_document(shadow="\ud800", mine=float("nan")), TABLE)
    assert message.shadow == "\ud800"
    assert message.headers is not None and message.headers["mine"] != message.headers["mine"]


def test_nobody_can_wait_for_an_answer_under_a_name_with_a_lone_surrogate() -> None:
    parts = good_parts()
    for name, expected in (("\ud800", None), ("réponses", "réponses")):
        parts["properties"]["reply_to"] = name
        assert parse(document_of(parts), TABLE).reply_to == expected


def test_custom_headers_are_those_that_peers_would_show() -> None:
    assert parse(good_document(), TABLE).headers is None
    message = parse(good_document(mine=1, hostname="h", args=[1], é={"a": None}), TABLE)
    assert message.headers == {"mine": 1, "é": {"a": None}}
    assert parse(good_document(redelivered=True), TABLE).headers == {"redelivered": True}
    assert parse(good_document(headers={"x": 1}, mine=2), TABLE).headers == {"x": 1}
    assert parse(good_document(hostname="h"), TABLE).headers is None


@pytest.mark.parametrize("where", ["header", "delivery_info"])
def test_a_redelivery_is_seen_wherever_it_is_recorded(where: str) -> None:
    parts = good_parts()
    if where == "header":
        parts["headers"]["redelivered"] = True
    else:
        parts["properties"]["delivery_info"]["redelivered"] = True
    assert parse(document_of(parts), TABLE).redelivered
    assert not parse(good_document(), TABLE).redelivered


def test_ten_thousand_headers_and_values_of_a_megabyte_are_carried() -> None:
    headers = {f"h{number}": number for number in range(10_000)} | {"big": "x" * 1_000_000, "nul": "\0"}
    message = parse(good_document(**headers), TABLE)
    assert message.headers == headers


@pytest.mark.parametrize(
    ("embed", "expected"),
    [
        (None, Embed()),
        ({}, Embed()),
        ({"unknown": 1}, Embed()),
        ({"callbacks": [], "chain": [STEP]}, Embed(callbacks=[], chain=[STEP])),
        (
            {"callbacks": [STEP], "errbacks": [STEP], "chain": [STEP], "chord": STEP},
            Embed([STEP], [STEP], [STEP], STEP),
        ),
    ],
)
def test_what_follows_a_task_is_read(embed: Any, expected: Embed) -> None:
    assert parse(_with_body([[], {}, embed]), TABLE).payload(TABLE)[2] == expected


@pytest.mark.parametrize("method", ["zlib", "bzip2", "xz"])
def test_a_compressed_body_is_read(method: str) -> None:
    body, value = compress(b'[[5], {"k": 1}, null]', method)
    parts = good_parts()
    parts["headers"]["compression"] = value
    assert parse(document_of(parts, body), TABLE).payload(TABLE)[:2] == ([5], {"k": 1})


def test_a_body_that_begins_with_a_space_is_read() -> None:
    message = parse(document_of(good_parts(), b" [[1], {}, {}]"), TABLE)
    assert (message.protocol, message.payload(TABLE)[0]) == (2, [1])


def test_protocol_1_is_read_from_the_body() -> None:
    message = parse(
        _protocol_1(
            args=[2, 2],
            kwargs={"k": 1},
            group="ignored",
            taskset="g",
            retries=3,
            eta="2024-01-02T00:00:00+00:00",
            utc=True,
            timelimit=[30, None],
            callbacks=[STEP],
            chain=[STEP],
            chord=STEP,
        ),
        TABLE,
    )
    args, kwargs, embed = message.payload(TABLE)
    assert (message.protocol, message.hybrid, message.task, message.id) == (1, False, "proj.add", "t1")
    assert (args, kwargs, message.group, message.retries) == ([2, 2], {"k": 1}, "g", 3)
    assert (message.eta_wall_s, message.time_limit_s) == (1704153600.0, 30.0)
    assert (embed.callbacks, embed.chain, embed.chord) == ([STEP], None, STEP)


def test_protocol_1_needs_neither_args_nor_kwargs() -> None:
    assert parse(_protocol_1(group="g"), TABLE).payload(TABLE)[:2] == ([], {})
    assert parse(_protocol_1(group="g"), TABLE).group == "g"


def test_protocol_1_without_utc_means_local_time() -> None:
    message = parse(_protocol_1(eta="2024-06-02T00:00:00", utc=False), TABLE)
    assert message.eta_wall_s == datetime(2024, 6, 2).timestamp()


def test_protocol_1_keeps_custom_headers_in_the_headers() -> None:
    parts = good_parts()
    parts["headers"] = {"mine": 1}
    message = parse(document_of(parts, b'{"task": "proj.add", "id": "t1"}'), TABLE)
    assert (message.protocol, message.headers) == (1, {"mine": 1})


def test_a_compressed_message_of_protocol_1_is_read() -> None:
    body, value = compress(b'{"task": "proj.add", "id": "t1", "args": [1]}', "zlib")
    parts = good_parts()
    parts["headers"] = {"compression": value}
    message = parse(document_of(parts, body), TABLE)
    assert (message.compression, message.payload(TABLE)[0]) == (value, [1])


@pytest.mark.parametrize("has_id", [True, False])
def test_a_hybrid_takes_what_its_headers_do_not_say_from_the_body(has_id: bool) -> None:
    parts = good_parts()
    parts["headers"] = {"task": "proj.add", "retries": 1, **({"id": "from-headers"} if has_id else {})}
    body = {"task": "other", "id": "from-body", "args": [1], "retries": 7, "group": "g", "errbacks": [STEP]}
    message = parse(document_of(parts, json.dumps(body).encode()), TABLE)
    args, kwargs, embed = message.payload(TABLE)
    assert (message.protocol, message.hybrid, message.task) == (1, True, "proj.add")
    assert message.id == ("from-headers" if has_id else "from-body")
    assert (message.retries, message.group, args, kwargs) == (1, "g", [1], {})
    assert embed == Embed(errbacks=[STEP])


def test_pickles_are_left_alone_until_the_payload_is_asked_for() -> None:
    table = SerializerTable(("pickle",), ("pickle",))
    parts = good_parts()
    parts.update({"content-type": "application/x-python-serialize", "content-encoding": "binary"})
    document = document_of(parts, table.encode(((1,), {}, {}), "pickle")[0])
    message = parse(document, table)
    assert message.task == "proj.add"
    with pytest.raises(MalformedMessage) as caught:
        message.payload(table)
    assert caught.value.reason is Malformed.REFUSED_HERE
    table.allow_unpickling()
    assert message.payload(table)[0] == [1]


def test_keywords_of_other_types_are_refused_where_a_format_allows_them() -> None:
    table = SerializerTable(("pickle",), ("pickle",))
    table.allow_unpickling()
    parts = good_parts()
    parts.update({"content-type": "application/x-python-serialize", "content-encoding": "binary"})
    with pytest.raises(MalformedMessage, match="a keyword is a int"):
        parse(document_of(parts, table.encode(((), {1: 2}, {}), "pickle")[0]), table).payload(table)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=6,
)
_times = st.datetimes().map(datetime.isoformat) | _json
_headers = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(good_parts()["headers"], _json),
        "task": st.just("proj.add") | _json,
        "id": st.just("1") | _json,
        "eta": _times,
        "expires": _times,
        "retries": st.integers(0, 5) | _json,
        "timelimit": st.lists(st.none() | st.floats(), max_size=3) | _json,
        "compression": st.sampled_from(["zlib", "bzip2", "xz", None]) | _json,
        "stamps": st.dictionaries(st.text(max_size=3), _json, max_size=2) | _json,
        "redelivered": st.booleans() | _json,
        "mine": _json,
        "headers": _json,
    },
)
_embeds = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("callbacks", "errbacks", "chain", "chord"), st.just([STEP]) | _json)
)
_bodies = (
    st.tuples(st.lists(_json, max_size=3) | _json, _json, _embeds | _json)
    | st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(good_parts()["headers"], _json),
            "task": st.just("proj.add") | _json,
            "id": st.just("1") | _json,
            "args": _json,
            "kwargs": _json,
            "eta": _times,
            "utc": st.booleans() | _json,
        },
    )
    | _json
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [("application/json", "utf-8"), ("application/x-msgpack", "binary"), ("text/plain", "zip")]
)
@pytest.mark.parametrize("raw", [False, True])
@given(_headers, _bodies)
@settings(max_examples=1000, deadline=None)
def test_any_message_is_read_or_malformed_and_nothing_else(
    content: tuple[str, str], raw: bool, headers: dict[str, Any], body: Any
) -> None:
    text = json.dumps(body)
    parts = {
        "body": text if raw else base64.b64encode(text.encode()).decode(),
        "content-type": content[0],
        "content-encoding": content[1],
        "headers": headers,
        "properties": {"delivery_tag": "t", "body_encoding": None if raw else "base64"},
    }
    try:
        message = parse(json.dumps(parts).encode(), TABLE)
        args, kwargs, embed = message.payload(TABLE)
    except MalformedMessage as error:
        assert isinstance(error.reason, Malformed) and error.detail
        return
    _assert_sound(message)
    assert type(args) is list and all(isinstance(key, str) for key in kwargs)
    for steps in (embed.callbacks, embed.errbacks, embed.chain):
        assert all(isinstance(step["task"], str) for step in steps or ())
    assert message.headers is None or isinstance(message.headers, dict)


def _assert_sound(message: TaskMessage) -> None:
    assert message.task and message.id and message.retries >= 0
    for limit_s in (message.time_limit_s, message.soft_time_limit_s):
        assert limit_s is None or 0 < limit_s <= 1e9
    plain = msgspec.to_builtins([message.eta_wall_s, message.expires_wall_s])
    assert all(value is None or -1e12 < value < 1e12 for value in plain)


@given(st.binary())
def test_any_bytes_are_malformed(document: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(document, TABLE)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
@settings(max_examples=500)
def test_a_damaged_message_is_read_or_malformed(position: int, damage: bytes) -> None:
    document = bytearray(good_document(mine={"a": [1, 2]}, eta="2024-01-02T00:00:00+00:00"))
    start = position % len(document)
    document[start : start + len(damage)] = damage
    try:
        parse(bytes(document), TABLE).payload(TABLE)
    except MalformedMessage as error:
        assert isinstance(error.reason, Malformed)
