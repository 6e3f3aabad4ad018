"""The engine's envelope to and from AMQP: nothing gets lost, nothing of the broker's gets in."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp import ladder
from prefork.transports.amqp.documents import (
    CAUSES_MAX,
    HEADER_CAUSES,
    HEADER_STARTS,
    HEADER_SUSPECT,
    RAW_CONTENT_TYPE,
    VANISHED,
    again,
    causes_of,
    every_cause,
    starts_of,
    suspect_of,
    to_content,
    to_document,
)
from prefork.transports.base import Message
from prefork.transports.envelope import decode, encode

SAFE_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
HEADERS = st.dictionaries(
    SAFE_TEXT.filter(lambda name: not name.startswith(("x-", "prefork-"))),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | SAFE_TEXT | st.lists(SAFE_TEXT, max_size=3),
    max_size=6,
)


def document(headers: dict[str, Any], body: bytes = b"[[], {}, {}]", **properties: Any) -> bytes:
    return encode(Message(body, "application/json", "utf-8", headers, properties))


@given(HEADERS, st.binary(max_size=60), st.integers(0, 9))
def test_an_envelope_comes_back_with_all_that_it_holds(
    headers: dict[str, Any], body: bytes, priority: int
) -> None:
    sent = document(headers, body, correlation_id="c", reply_to="r", expiration="60000", app_id="a")
    content = to_content(sent, priority)
    assert content.body == body
    back = decode(to_document(content.properties, content.body, "", "celery", "tag"))
    assert (back.body, back.content_type, back.content_encoding) == (body, "application/json", "utf-8")
    assert json.loads(bytes(back.headers)) == headers
    assert back.priority == priority
    message = back.message()
    assert {name: message.properties[name] for name in ("correlation_id", "reply_to", "expiration")} == {
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
    }
    assert message.properties["app_id"] == "a"
    assert message.properties["delivery_info"] == {"exchange": "", "routing_key": "celery"}


@given(st.binary(max_size=200))
def test_bytes_that_are_no_envelope_travel_as_they_are(data: bytes) -> None:
    content = to_content(data, 0)
    if content.properties["content_type"] == RAW_CONTENT_TYPE:
        assert to_document(content.properties, content.body, "", "q", "t") == data


def test_types_that_json_lacks_cross_in_both_directions() -> None:
    headers: dict[str, Any] = {
        "when": datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "price": Decimal("1.50"),
        "blob": b"\xff\xfe",
        "deep": [{"blob": b"\xff"}],
    }
    shown = to_document({"headers": headers, "content_type": "application/json"}, b"[]", "", "q", "t")
    content = to_content(shown, 0)
    assert content.properties["headers"] == headers


def test_two_keys_that_stand_for_nothing_known_stay_a_map() -> None:
    for odd in (
        {"__type__": "other", "__value__": "x"},
        {"__type__": "datetime", "__value__": "yesterday"},
        {"__type__": "decimal", "__value__": "much"},
        {"__type__": "datetime", "__value__": 7},
    ):
        content = to_content(document({"h": odd}), 0)
        assert content.properties["headers"] == {"h": odd}


def test_text_that_is_no_unicode_is_replaced_rather_than_refused() -> None:
    shown = to_document({"headers": {"h": "a\udcff"}}, b"", "", "q", "t")
    assert json.loads(bytes(decode(shown).headers)) == {"h": "a?"}


def test_headers_of_the_broker_and_ours_do_not_reach_the_task() -> None:
    headers = {
        "task": "t",
        "x-death": [{"queue": "celery_delayed_2"}],
        "x-first-death-queue": "q",
        "x-delivery-count": 3,
        "x-mine": "kept",
        HEADER_STARTS: 2,
        HEADER_SUSPECT: True,
    }
    shown = decode(to_document({"headers": headers}, b"", "celery_delayed_0", "q", "t"))
    assert json.loads(bytes(shown.headers)) == {"task": "t", "x-mine": "kept"}


def test_the_way_through_the_ladder_is_no_part_of_the_address() -> None:
    key = ".".join("0" * 27 + "1") + ".orders.high"
    shown = decode(to_document({}, b"", "celery_delayed_delivery", key, "t"))
    assert shown.message().properties["delivery_info"] == {"exchange": "", "routing_key": "orders.high"}
    for target, was in (
        (ladder.to_queue("celery"), {"exchange": "", "routing_key": "celery"}),
        (ladder.via_exchange("shop.x", "new.order"), {"exchange": "shop.x", "routing_key": "new.order"}),
    ):
        _first, ours = ladder.address(3.2, target)
        shown = decode(to_document({}, b"", ladder.END_EXCHANGE, ours, "t"))
        assert shown.message().properties["delivery_info"] == was


def test_a_message_that_is_sent_again_has_the_record_that_it_is_given_and_no_other() -> None:
    old = {
        "expiration": "5000",
        "priority": 3,
        "headers": {
            "task": "t",
            "x-death": [1],
            HEADER_STARTS: 2,
            HEADER_CAUSES: ["a"],
            HEADER_SUSPECT: True,
        },
    }
    clean = again(old, starts=0)
    assert clean == {"priority": 3, "headers": {"task": "t"}}
    assert (starts_of(clean), causes_of(clean), suspect_of(clean)) == (0, (), False)
    marked = again(old, starts=3, causes=("a", "b"), suspect=True)
    assert (starts_of(marked), causes_of(marked), suspect_of(marked)) == (3, ("a", "b"), True)


def test_a_record_that_somebody_else_wrote_badly_counts_for_nothing() -> None:
    for odd in ("2", -1, 1 << 40, None, True, [1]):
        assert starts_of({"headers": {HEADER_STARTS: odd}}) == 0
    assert causes_of({"headers": {HEADER_CAUSES: "x"}}) == ()
    assert suspect_of({"headers": {HEADER_SUSPECT: 1}}) is False
    assert starts_of({}) == 0


def test_a_forged_count_of_deaths_makes_no_more_causes_than_are_kept() -> None:
    forged = starts_of({"headers": {HEADER_STARTS: (1 << 31) - 1}})
    assert every_cause((), forged) == (VANISHED,) * CAUSES_MAX
    assert every_cause(("first", "second"), forged) == (VANISHED,) * CAUSES_MAX
    assert every_cause(tuple(map(str, range(500))), forged)[-1] == VANISHED


def test_of_too_many_causes_the_last_are_kept() -> None:
    assert every_cause(("first", "second"), 3) == ("first", "second", VANISHED)
    assert every_cause(("told",), 1) == ("told",)
    many = tuple(map(str, range(CAUSES_MAX + 5)))
    assert every_cause(many, len(many)) == many[5:]
