"""Schedules, dead letters and marked lists that hold what nobody of ours has written."""

from __future__ import annotations

import pytest
import redis

from prefork.transports.base import Depth, Outcome, Outgoing, QueueDeclaration, Verdict
from prefork.transports.redis import RedisTransport, open_transport
from prefork.transports.redis.keys import Keys
from support.redis_server import RedisServer


@pytest.mark.parametrize("member", [b"", b"no line", b"a:b:c\ndocument", b"\n", b"u:1\nd", b":::\n"])
def test_a_damaged_member_of_a_schedule_becomes_a_dead_letter(
    transport: RedisTransport, server: redis.Redis, keys: Keys, member: bytes
) -> None:
    server.zadd(keys.due("q"), {member: 1.0})
    server.sadd(keys.due_queues, b"q")
    assert len(transport.peek("q", delayed=True)) == 1
    assert transport.promote() is None
    (letter,) = transport.dead_letters()
    assert (letter.document, letter.reason, letter.queue) == (member, "bad-schedule", "q")
    assert transport.depth("q") == Depth(0, 0, 0)
    assert not server.exists(keys.due_queues)


def test_a_short_member_of_a_schedule_is_a_message_without_a_record(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    server.zadd(keys.due("q"), {b"unique:4:2\ndocument": 1.0})
    (seen,) = transport.peek("q", delayed=True)
    assert (seen.document, seen.priority, seen.crashes, seen.due_wall_s) == (b"document", 4, 2, 1.0)
    (held,) = transport.consumer(["q"], "owner", "worker").reserve(1)
    assert (held.document, held.priority, held.crashes) == (b"document", 3, 2)


@pytest.mark.parametrize("entry", [b"no line", b"x:y:\ndocument", b"\n", b""])
def test_an_entry_without_a_record_is_delivered_as_it_is(
    transport: RedisTransport, server: redis.Redis, keys: Keys, entry: bytes
) -> None:
    place = keys.list_of("q", 0)
    server.lpush(keys.marked(place), entry)
    server.sadd(keys.marked_lists, place)
    assert len(transport.peek("q")) == 1
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(5)
    assert (held.document, held.crashes, held.suspect) == (entry, 0, False)
    assert consumer.settle([Outcome(held.tag)]) == [True]
    assert consumer.reserve(5) == []
    assert not server.exists(keys.marked_lists)


def test_a_letter_with_half_of_its_fields_is_shown(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    server.xadd(keys.dead, {"queue": "q", "document": "d"})
    (letter,) = transport.dead_letters()
    assert (letter.queue, letter.document, letter.causes, letter.crashes) == ("q", b"d", (), 0)
    assert transport.dead_get(letter.key) == letter
    assert transport.dead_replay(letter.key) is True
    assert transport.depth("q").ready == 1


def test_more_letters_than_a_page_are_all_shown(transport: RedisTransport) -> None:
    transport.send([Outgoing("q", b"%d" % index) for index in range(50)])
    consumer = transport.consumer(["q"], "owner", "worker")
    held = consumer.reserve(50)
    consumer.settle([Outcome(one.tag, Verdict.DEAD, reason="test", causes=("a", "é\n")) for one in held])
    found = list(transport.dead_letters(45))
    assert [one.document for one in found] == [b"%d" % index for index in range(45)]
    assert {one.causes for one in found} == {("a", "é\n")}
    assert len(list(transport.dead_letters(1000))) == 50


def test_causes_survive_every_station(transport: RedisTransport) -> None:
    transport.send([Outgoing("q", b"m")])
    consumer = transport.consumer(["q"], "owner", "worker")

    def crash(cause: str) -> None:
        (held,) = consumer.reserve(1)
        outcome = Outcome(held.tag, Verdict.REQUEUE, crashed=True, causes=(cause,))
        assert consumer.settle([outcome]) == [True]

    crash("first: line\nsecond")
    (held,) = consumer.reserve(1)
    assert consumer.give_back([held.tag]) == 1
    crash("and again")
    (held,) = consumer.reserve(1)
    assert consumer.settle([Outcome(held.tag, Verdict.DEFER, due_wall_s=1.0)]) == [True]
    (held,) = consumer.reserve(1)
    assert held.crashes == 2
    recovery = transport.recover("owner", running=held.tag, cause="the last", max_crashes=3)
    (letter,) = recovery.dead
    assert letter.causes == ("first: line\nsecond", "and again", "the last")
    assert list(transport.dead_letters()) == [letter]


def test_the_work_of_many_owners_is_counted(transport: RedisTransport) -> None:
    transport.send([Outgoing("q", b"%d" % index, index % 10) for index in range(60)])
    transport.send([Outgoing("other", b"o") for _ in range(60)])
    for index in range(55):
        consumer = transport.consumer(["other", "q"], f"owner{index}", "worker")
        assert len(consumer.reserve(2)) == 2
    both = transport.depth("q"), transport.depth("other")
    assert sum(one.in_work for one in both) == 110
    assert sum(one.ready for one in both) == 10


def test_an_expiring_queue_is_forgotten_when_it_is_purged(shared_redis: RedisServer, prefix: str) -> None:
    passing = QueueDeclaration("passing", arguments={"x-expires": 60_000})
    opened = open_transport(
        shared_redis.url, {"global_keyprefix": prefix, "declarations": {"passing": passing}}
    )
    opened.send([Outgoing("passing", b"1"), Outgoing("staying", b"2")])
    assert opened.queues() == ["passing", "staying"]
    assert [opened.purge("passing"), opened.purge("staying")] == [1, 1]
    assert opened.queues() == ["staying"]
    opened.close()
