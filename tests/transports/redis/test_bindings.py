"""Exchanges as kombu writes them: tables, members, patterns, topics, copies."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from kombu.transport.virtual.exchange import TopicExchange

from prefork.transports.base import QueueDeclaration
from prefork.transports.redis.bindings import Bindings, retagged, topic_pattern
from prefork.transports.redis.settings import read_settings

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.lists(st.one_of(st.just("*"), st.just("#"), WORDS), min_size=1, max_size=5).map(".".join)


@pytest.fixture(scope="module")
def kombus() -> TopicExchange:
    with Connection("memory://") as connection:
        return TopicExchange(connection.default_channel)


def bindings(*declared: QueueDeclaration, **options: object) -> Bindings:
    settings = read_settings("redis://localhost/2", options)
    return Bindings(settings, {one.name: one for one in declared})


def topic(name: str, key: str) -> QueueDeclaration:
    return QueueDeclaration(name, exchange="news", exchange_type="topic", routing_key=key)


@given(KEYS)
def test_a_pattern_is_kombus_to_the_character(kombus: TopicExchange, key: str) -> None:
    assert topic_pattern(key) == kombus.key_to_pattern(key)


@given(KEYS, st.lists(WORDS, min_size=1, max_size=4).map(".".join))
def test_a_topic_matches_what_kombu_matches(kombus: TopicExchange, key: str, routing_key: str) -> None:
    known = bindings(topic("q", key))
    member = known.member(known.declaration("q")).encode()
    expected = kombus._match(kombus.key_to_pattern(key), routing_key) is not None
    separated = member.count(b"\x06\x16") == 2
    assert (known.matching([member], "news", routing_key) == ["q"]) == (expected and separated)


def test_a_direct_exchange_takes_the_exact_key_only() -> None:
    members = [b"a\x06\x16\x06\x16one", b"a\x06\x16\x06\x16two", b"ab\x06\x16\x06\x16three"]
    assert bindings().matching(members, "anything", "a") == ["one", "two"]
    assert bindings().matching(members, "anything", "b") == []


@pytest.mark.parametrize("damaged", [b"", b"a", b"a\x06\x16b", b"a\x06\x16\x06\x16", b"\xff\xfe"])
def test_what_is_no_member_binds_nothing(damaged: bytes) -> None:
    assert bindings().matching([damaged], "x", "a") == []


def test_a_pattern_that_does_not_compile_matches_nothing() -> None:
    known = bindings(topic("q", "a"))
    members = [b"a\x06\x16^(\x06\x16broken", b"a\x06\x16^a$\x06\x16q"]
    assert known.matching(members, "news", "a") == ["q"]
    assert known.matching(members, "news", "a") == ["q"]


def test_patterns_are_not_kept_without_end() -> None:
    known = bindings(topic("q", "a"))
    members = [b"a\x06\x16^%d$\x06\x16q" % number for number in range(1500)]
    assert known.matching(members, "news", "7") == ["q"]
    assert len(known._compiled) <= 1000


def test_a_queue_that_nobody_described_is_bound_to_an_exchange_of_its_name() -> None:
    keys, args = bindings(global_keyprefix="app:").operations("orders")
    assert keys == ["app:_kombu.binding.orders", "app:_kombu.binding_permanent.orders"]
    assert args == ["B", "1", "orders\x06\x16\x06\x16orders"]


def test_a_queue_of_the_default_exchange_has_no_binding() -> None:
    assert bindings(QueueDeclaration("plain")).operations("plain") == ([], [])


@pytest.mark.parametrize(("expires_ms", "ttl_ms"), [(60_000, 3_600_000), (7_200_000, 14_400_000)])
def test_the_bindings_of_an_expiring_queue_live_twice_as_long(expires_ms: int, ttl_ms: int) -> None:
    declared = QueueDeclaration("r", exchange="r", routing_key="r", arguments={"x-expires": expires_ms})
    keys, args = bindings(declared).operations("r")
    assert keys[1] == "_kombu.binding_deadlines"
    assert args == ["E", "3", "r\x06\x16\x06\x16r", "r", str(ttl_ms)]


@pytest.mark.parametrize(
    ("options", "channel", "pattern"),
    [
        ({}, "/2.ev/task.sent", "/2.ev/task.*"),
        ({"fanout_prefix": "own."}, "own.ev/task.sent", "own.ev/task.*"),
        ({"fanout_prefix": False}, "ev/task.sent", "ev/task.*"),
        ({"fanout_patterns": False}, "/2.ev", "/2.ev"),
        ({"global_keyprefix": "p:"}, "p:/2.ev/task.sent", "p:/2.ev/task.*"),
    ],
)
def test_topics_of_fanouts_are_kombus(options: dict[str, object], channel: str, pattern: str) -> None:
    queue = QueueDeclaration("q", exchange="ev", exchange_type="fanout", routing_key="task.#")
    known = bindings(queue, **options)
    assert known.topic("ev", "task.sent") == channel
    assert known.subscription(queue) == pattern
    assert known.kind("ev") == "fanout"
    assert known.declared_on("ev") == ["q"]


@given(st.text(max_size=10), st.binary(max_size=20))
def test_a_copy_differs_in_its_tag_only(tag: str, body: bytes) -> None:
    found = {"body": body.hex(), "n": tag, "properties": {"delivery_tag": tag, "priority": 1}}
    document = json.dumps(found).encode()
    copy = json.loads(retagged(document))
    assert copy["properties"]["delivery_tag"] != tag
    assert re.fullmatch(r"[0-9a-f-]{36}", copy["properties"].pop("delivery_tag"))
    found["properties"].pop("delivery_tag")  # type: ignore[attr-defined]
    assert copy == found


@pytest.mark.parametrize("document", [b"", b"[]", b"\xff", b'{"properties": {}}', b"[" * 5000])
def test_what_has_no_tag_is_copied_as_it_is(document: bytes) -> None:
    assert retagged(document) == document
