"""Redis where something is not as it should be: foreign data, clocks apart, rights that lack, silence."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from prefork.transports.base import Delivery, Outcome, Outgoing, QueueDeclaration, StoredResult, Verdict
from prefork.transports.redis import RedisTransport, link, open_transport, schedule
from prefork.transports.redis.keys import Keys
from support.redis_server import RedisServer

SUCCESS = b'{"status": "SUCCESS"}'


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [one.document for one in deliveries]


def send(transport: RedisTransport, *messages: bytes) -> None:
    transport.send([Outgoing("q", one) for one in messages])


# --- what others have spoilt --------------------------------------------------------------------------


def test_a_damaged_owner_keeps_no_other_from_being_recovered_and_is_said_once(
    transport: RedisTransport, server: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    send(transport, b"a", b"b", b"c")
    for owner in ("1", "2", "3"):
        assert transport.consumer(["q"], owner, "worker").reserve(1)
    server.hset(keys.owners, b"1", b"nonsense")
    server.delete(keys.held("2"))
    server.set(keys.held("2"), b"foreign")
    transport.heartbeat("worker", 0.001)
    time.sleep(0.002)
    assert transport.recover_lapsed().suspects == 1
    assert "owner '1'" in caplog.text and "prefork:held:2" in caplog.text
    caplog.clear()
    assert transport.recover_lapsed().suspects == 0
    assert not caplog.records, "said again"
    assert transport.owners("worker") == ["1", "2"]


@pytest.mark.parametrize("causes", [b"nonsense", b"null", b'"text"', b"\xff", b"[[[", b'{"a": 1}'])
def test_causes_that_are_none_lose_no_message(
    transport: RedisTransport, server: redis.Redis, keys: Keys, causes: bytes
) -> None:
    place = keys.list_of("q", 0)
    server.rpush(keys.marked(place), b"1:0:" + causes + b"\nm")
    server.sadd(keys.marked_lists, place)
    (held,) = transport.consumer(["q"], "owner", "worker").reserve(1)
    recovery = transport.recover("owner", running=held.tag, cause="it fell", max_crashes=2)
    (letter,) = recovery.dead
    assert letter.document == b"m" and letter.causes
    assert [one.causes for one in transport.dead_letters()] == [letter.causes]


def test_a_dead_letter_of_somebody_else_is_listed(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    fields = {"document": b"d", "causes": b"\xff{", "priority": b"x", "crashes": b"inf", "died": b"nan"}
    server.xadd(keys.dead, fields)
    (letter,) = transport.dead_letters()
    assert (letter.document, letter.priority, letter.crashes, letter.died_wall_s) == (b"d", 0, 0, 0.0)


def test_nothing_is_promoted_that_could_get_lost_on_its_way(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    server.zadd(keys.due("q"), {b"no member": 1.0})
    server.set(keys.dead, b"foreign")
    consumer = transport.consumer(["q"], "owner", "worker")
    send(transport, b"other")
    assert documents(consumer.reserve(5)) == [b"other"]
    assert server.zrange(keys.due("q"), 0, -1) == [b"no member"]


# --- clocks --------------------------------------------------------------------------------------------


def test_who_defers_into_the_past_is_not_handed_the_message_again_and_again(
    transport: RedisTransport,
) -> None:
    send(transport, b"m")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    began_wall_s = time.time()
    assert consumer.settle([Outcome(held.tag, Verdict.DEFER, due_wall_s=began_wall_s - 5.0)]) == [True]
    (waiting,) = transport.peek("q", delayed=True)
    assert waiting.due_wall_s is not None and waiting.due_wall_s > began_wall_s
    assert documents(consumer.reserve(1, 5.0)) == [b"m"]
    assert time.time() >= waiting.due_wall_s


def test_the_next_due_time_is_told_by_the_clock_of_this_host(
    transport: RedisTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.send([Outgoing("q", b"m", due_wall_s=time.time() + 100.0)])
    real = time.time
    monkeypatch.setattr(schedule.time, "time", lambda: real() + 1000.0)
    following = transport.promote()
    assert following is not None and 95.0 < following - time.time() < 105.0


def test_a_reply_that_takes_long_never_makes_the_next_due_time_too_late(
    transport: RedisTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    due_wall_s = time.time() + 100.0
    transport.send([Outgoing("q", b"m", due_wall_s=due_wall_s)])
    real, slow_replies = schedule.Link.run, []

    def answers_late(*arguments: Any) -> Any:
        reply = real(*arguments)
        began_wall_s = time.time()
        slow_replies.append(reply)
        while time.time() < began_wall_s + 0.05:
            time.sleep(0.01)
        return reply

    monkeypatch.setattr(schedule.Link, "run", answers_late)
    following = transport.promote()
    assert slow_replies
    assert following is not None and due_wall_s - 5.0 < following <= due_wall_s + 0.001


# --- what cannot be told ----------------------------------------------------------------------------------


def test_a_user_that_may_not_publish_settles_all_the_same_and_it_is_said_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.cli("acl", "setuser", "mute", "on", ">secret", "~*", "+@all", "-publish", "&*")
    options = {"declarations": {"fan": QueueDeclaration("fan", "fan", "fanout", "")}}
    transport = open_transport(f"redis://mute:secret@127.0.0.1:{own_redis.port}/0", options)
    send(transport, b"a", b"b")
    consumer = transport.consumer(["q"], "owner", "worker")
    for held in consumer.reserve(2):
        told = Outcome(
            held.tag,
            results=(StoredResult(held.document.decode(), SUCCESS),),
            follow_ups=(Outgoing("fan", b"f", exchange="fan"), Outgoing("q2", b"after")),
        )
        assert consumer.settle([told]) == [True]
    assert transport.depth("q2").ready == 2
    lines = [line.getMessage() for line in caplog.records if "publish" in line.getMessage()]
    assert len(lines) == 1 and "'mute'" in lines[0] and "secret" not in lines[0]
    consumer.close()
    transport.close()


def test_replies_that_nobody_waits_for_do_not_pile_up(
    transport: RedisTransport, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(transport, b"m")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    monkeypatch.setattr(link, "_UNREAD_MAX", 3)
    read: list[int] = []
    real = link.Link._read_unread

    def counted(self: link.Link, wire: link.Wire) -> None:
        read.append(len(self._unread))
        real(self, wire)

    monkeypatch.setattr(link.Link, "_read_unread", counted)
    for _ in range(10):
        consumer.inform(held.tag, [StoredResult("id", SUCCESS)])
    assert read and max(read) <= 4
