from __future__ import annotations

import json
import reprlib
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.engine.message import (
    Embed,
    MalformedMessage,
    TaskDraft,
    bounded_repr,
    build,
    draft_of,
    encode_task,
    parse,
    retry_of,
)
from prefork.engine.message_retry import OWN_RETRY_HEADER
from prefork.serializers.base import EncodeError, UnknownSerializer
from prefork.serializers.compression import UnknownCompression
from prefork.serializers.registry import SerializerTable
from prefork.transports import envelope
from support.corpus import document_of, good_document, good_parts

TABLE = SerializerTable(("json", "msgpack", "pickle"), ("json", "msgpack", "pickle"))
TABLE.allow_unpickling()
STEP = {"task": "proj.add", "args": [1], "kwargs": {}}
ETA_WALL_S = 1_900_000_000.5


class User:
    """Has no form in any serializer."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


def _draft(**changes: Any) -> TaskDraft:
    return TaskDraft(**{"task": "proj.add", "id": "t", **changes})


def _written(draft: TaskDraft, **options: Any) -> Any:
    return json.loads(encode_task(draft, TABLE, **options))


def test_a_minimal_message_is_that_of_the_protocol() -> None:
    found = _written(_draft(args=(2, 2)))
    headers, properties = found["headers"], found["properties"]
    assert headers == {
        "lang": "py",
        "task": "proj.add",
        "id": "t",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "t",
        "parent_id": None,
        "argsrepr": "",
        "kwargsrepr": "",
        "origin": None,
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    assert uuid.UUID(properties.pop("delivery_tag")).version == 4
    assert properties == {
        "correlation_id": "t",
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
    }
    assert (found["content-type"], found["content-encoding"]) == ("application/json", "utf-8")


def test_both_writers_write_the_same() -> None:
    plain = _draft(args=(1,), eta_wall_s=ETA_WALL_S, time_limit_s=3.0, priority=4, compression="zlib")
    fast = _written(plain, now_wall_s=1.0)
    plain.headers = {}
    general = _written(plain, now_wall_s=1.0)
    for found in (fast, general):
        del found["properties"]["delivery_tag"]
    assert fast == general


def test_times_are_written_aware_and_in_utc() -> None:
    headers = _written(_draft(eta_wall_s=ETA_WALL_S, expires_wall_s=0))["headers"]
    assert headers["eta"] == "2030-03-17T17:46:40.500000+00:00"
    assert headers["expires"] == "1970-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("expires_wall_s", "now_wall_s", "expiration"),
    [(160.0, 100.0, "60000"), (100.0001, 100.0, "0"), (50.0, 100.0, "0"), (160.0, None, None)],
)
def test_the_broker_is_told_when_a_message_expires(
    expires_wall_s: float, now_wall_s: float | None, expiration: str | None
) -> None:
    properties = _written(_draft(expires_wall_s=expires_wall_s), now_wall_s=now_wall_s)["properties"]
    assert properties.get("expiration") == expiration


def test_custom_headers_and_properties_are_added_and_override_as_peers_do() -> None:
    found = _written(_draft(headers={"mine": Decimal("1.5"), "shadow": "s"}, properties={"app_id": "me"}))
    assert found["headers"]["mine"] == {"__type__": "decimal", "__value__": "1.5"}
    assert found["headers"]["shadow"] == "s"
    assert found["properties"]["app_id"] == "me"


def test_arguments_are_not_shown_in_the_headers_unless_asked_for() -> None:
    draft = _draft(args=["secret"], kwargs={"a": 1})
    headers = _written(draft)["headers"]
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("", "")
    headers = _written(draft, reprs=True)["headers"]
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("('secret',)", "{'a': 1}")
    draft.argsrepr = "(hidden)"
    assert _written(draft, reprs=True)["headers"]["argsrepr"] == "(hidden)"


def test_a_repr_is_bounded_and_never_raises() -> None:
    class Broken(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            raise RuntimeError("no")

    assert len(bounded_repr(tuple("x" * 1000 for _ in range(1000)))) <= 1024
    assert bounded_repr({"a": [[[[1]]]]}) == reprlib.repr({"a": [[[[1]]]]}).replace("[[[[1]]]]", "[[[...]]]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reprlib.Repr, "repr", lambda self, value: len(Broken()))
        assert bounded_repr((1,)) == "<tuple: its repr raises RuntimeError>"


@pytest.mark.parametrize("name", ["json", "msgpack", "pickle"])
@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"args": (1, {"user": User()})}, "args[1]['user']"),
        ({"kwargs": {"who": [User()]}}, "kwargs['who'][0]"),
        ({"callbacks": [{"task": "a", "args": [User()]}]}, "link[0]['args'][0]"),
        ({"errbacks": [{"task": "a", "args": [User()]}]}, "link_error[0]['args'][0]"),
        ({"chord": {"task": "a", "args": [User()]}}, "chord['args'][0]"),
    ],
)
def test_an_argument_without_a_form_is_named(name: str, changes: dict[str, Any], path: str) -> None:
    for protocol in (1, 2):
        with pytest.raises(EncodeError, match="pass an id") as caught:
            encode_task(_draft(serializer=name, protocol=protocol, **changes), TABLE)
        assert (caught.value.path, caught.value.value_type) == (path, "<class User>")


def test_a_header_without_a_form_is_named() -> None:
    with pytest.raises(EncodeError) as caught:
        encode_task(_draft(headers={"mine": [User()]}), TABLE)
    assert caught.value.path == "headers['mine'][0]"


def test_a_payload_that_cannot_be_blamed_on_a_part_shows_the_cause() -> None:
    class Odd(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("cannot list")

    with pytest.raises(EncodeError, match="cannot list"):
        encode_task(_draft(kwargs=Odd(a=1)), TABLE)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"serializer": "yaml"}, UnknownSerializer),
        ({"compression": "rot13"}, UnknownCompression),
        ({"eta_wall_s": float("nan")}, ValueError),
        ({"expires_wall_s": 1e20}, ValueError),
        ({"time_limit_s": float("nan")}, ValueError),
        ({"soft_time_limit_s": float("inf")}, ValueError),
        ({"protocol": 1, "chain": [STEP]}, ValueError),
    ],
)
def test_what_cannot_be_written_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_task(_draft(**changes), TABLE)


def test_a_lone_surrogate_in_a_name_is_written_the_general_way() -> None:
    assert parse(encode_task(_draft(shadow="\ud800"), TABLE), TABLE).shadow == "\ud800"


def test_a_message_for_transports_without_documents_is_the_same_message() -> None:
    draft = _draft(args=(1,), headers={"mine": 1}, compression="zlib", priority=3)
    message = build(draft, TABLE, now_wall_s=0.0)
    document = envelope.encode(message)
    found = parse(document, TABLE)
    assert (found.payload(TABLE)[0], found.headers, found.priority) == ([1], {"mine": 1}, 3)
    assert message.properties["delivery_info"] == {"exchange": "", "routing_key": "celery"}


def test_protocol_1_with_compression_says_so_in_its_headers() -> None:
    found = parse(encode_task(_draft(protocol=1, args=(1,), compression="zlib"), TABLE), TABLE)
    assert (found.protocol, found.compression, found.payload(TABLE)[0]) == (1, "application/x-gzip", [1])


def test_a_retry_keeps_everything_but_count_and_time() -> None:
    parts = good_parts()
    parts["headers"].update(
        {"mine": {"__type__": "decimal", "__value__": "1.5"}, "group": "g", "timelimit": [30, None]}
    )
    parts["properties"].update({"app_id": "me", "delivery_mode": 1, "priority": 5})
    message = parse(document_of(parts), TABLE)
    again = json.loads(retry_of(message, TABLE, eta_wall_s=ETA_WALL_S))
    expected = json.loads(document_of(parts))
    expected["headers"].update({"retries": 1, "eta": "2030-03-17T17:46:40.500000+00:00"})
    expected["headers"][OWN_RETRY_HEADER] = 1
    assert again["properties"].pop("delivery_tag") != expected["properties"].pop("delivery_tag")
    assert again == expected


@pytest.mark.parametrize(
    "name", ["x-death", "x-first-death-queue", "x-last-death-reason", "x-first-death-exchange", "redelivered"]
)
def test_a_retry_drops_the_traces_of_the_old_message(name: str) -> None:
    message = parse(good_document(**{name: True, "x-deathly": 1, "mine": 2}), TABLE)
    headers = json.loads(retry_of(message, TABLE))["headers"]
    assert name not in headers and headers["mine"] == 2


def test_a_retry_sends_the_body_on_unread() -> None:
    parts = good_parts()
    parts.update({"content-type": "application/x-python-serialize", "content-encoding": "binary"})
    message = parse(document_of(parts, b"\x80\x04not a pickle"), TABLE)
    found = envelope.decode(retry_of(message, TABLE))
    assert (found.body, found.content_type) == (b"\x80\x04not a pickle", "application/x-python-serialize")
    with pytest.raises(MalformedMessage):
        retry_of(message, TABLE, args=(1,))


def test_a_retry_may_change_arguments_and_options() -> None:
    body = b'[[1], {"a": 1}, {"callbacks": [{"task": "proj.add"}]}]'
    message = parse(document_of(good_parts(), body), TABLE)
    document = retry_of(
        message, TABLE, retries=5, kwargs={"a": 2}, queue="slow", priority=7, headers={"mine": 1}, shadow="s"
    )
    found = parse(document, TABLE)
    assert found.payload(TABLE) == ([1], {"a": 2}, Embed(callbacks=[{"task": "proj.add"}]))
    assert (found.retries, found.routing_key, found.priority, found.shadow) == (5, "slow", 7, "s")
    assert found.headers == {"mine": 1, OWN_RETRY_HEADER: 5}
    again = parse(retry_of(found, TABLE, headers={"more": 2}), TABLE)
    assert (again.headers, again.retries) == ({"mine": 1, "more": 2, OWN_RETRY_HEADER: 6}, 6)


def test_a_retry_of_a_compressed_message_stays_compressed() -> None:
    message = parse(encode_task(_draft(args=(1,), compression="zlib"), TABLE), TABLE)
    for document in (retry_of(message, TABLE), retry_of(message, TABLE, args=(2,))):
        assert parse(document, TABLE).compression == "application/x-gzip"


def test_a_retry_may_change_serializer_and_compression() -> None:
    message = parse(encode_task(_draft(args=(1,), compression="zlib"), TABLE), TABLE)
    found = parse(retry_of(message, TABLE, serializer="msgpack", compression=None), TABLE)
    assert (found.content_type, found.compression) == ("application/x-msgpack", None)
    assert found.payload(TABLE)[0] == [1]


def test_a_retry_of_protocol_1_is_written_in_protocol_2() -> None:
    draft = _draft(protocol=1, args=(1,), callbacks=[STEP], group="g", headers={"mine": 1})
    message = parse(encode_task(draft, TABLE), TABLE)
    found = parse(retry_of(message, TABLE, eta_wall_s=ETA_WALL_S), TABLE)
    assert (found.protocol, found.id, found.retries, found.group) == (2, "t", 1, "g")
    assert (found.eta_wall_s, found.headers) == (ETA_WALL_S, {"mine": 1, OWN_RETRY_HEADER: 1})
    assert found.payload(TABLE) == ([1], {}, Embed(callbacks=[STEP]))


_texts = st.text(min_size=1, max_size=20)
_maybe_texts = st.none() | st.text(max_size=20)
_limits = st.none() | st.floats(min_value=0.001, max_value=1e9)
_times = st.none() | st.integers(-62_000_000_000, 250_000_000_000).map(float)
_steps = st.none() | st.lists(st.just(STEP), max_size=2)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part, max_size=3),
    max_leaves=5,
)
_drafts = st.builds(
    TaskDraft,
    task=_texts,
    id=_texts,
    args=st.lists(_values, max_size=3),
    kwargs=st.dictionaries(st.text(), _values, max_size=3),
    queue=st.text(max_size=20),
    exchange=st.text(max_size=5),
    compression=st.none() | st.sampled_from(["zlib", "xz"]),
    eta_wall_s=_times,
    expires_wall_s=_times,
    retries=st.integers(0, 1000),
    time_limit_s=_limits,
    soft_time_limit_s=_limits,
    root_id=st.none() | _texts,
    parent_id=_maybe_texts,
    group=_maybe_texts,
    group_index=st.none() | st.integers(0, 1000),
    shadow=_maybe_texts,
    ignore_result=st.none() | st.booleans(),
    argsrepr=st.text(max_size=5),
    origin=_maybe_texts,
    replaced_task_nesting=st.integers(0, 9),
    stamped_headers=st.none() | st.lists(_texts, max_size=2),
    stamps=st.none() | st.dictionaries(_texts, st.text(), max_size=2),
    callbacks=_steps,
    errbacks=_steps,
    chain=_steps,
    chord=st.none() | st.just(STEP),
    reply_to=st.text(max_size=5),
    priority=st.integers(0, 9),
    headers=st.none() | st.dictionaries(_texts.map("x-".__add__), _values, max_size=2),
)


@given(_drafts)
@settings(max_examples=300, deadline=None)
def test_every_draft_comes_back_through_the_wire(draft: TaskDraft) -> None:
    back = draft_of(parse(encode_task(draft, TABLE), TABLE), TABLE)
    for name in TaskDraft.__struct_fields__:
        before, after = getattr(draft, name), getattr(back, name)
        if name in ("serializer", "compression", "raw", "protocol"):
            continue
        if name in ("root_id", "correlation_id"):
            before = before or draft.id
        if name in ("stamps", "headers", "properties"):
            before, after = before or {}, after or {}
        assert before == after, name
