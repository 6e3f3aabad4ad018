"""Reserving and settling on Redis, where it differs from other brokers."""

from __future__ import annotations

import logging
import time

import pytest
import redis

from prefork.transports.base import Delivery, Depth, Outcome, Outgoing, Recovery, StoredResult, Verdict
from prefork.transports.errors import BrokerUnavailable, OwnerLost
from prefork.transports.redis import RedisTransport, open_results, open_transport
from prefork.transports.redis.consumer import BATCH_BYTES_MAX
from prefork.transports.redis.faults import DamagedOwner
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.owners import Registered
from support.forked import in_child
from support.redis_server import RedisServer, running_redis
from support.tcp_proxy import Mode, tcp_proxy

SUCCESS = b'{"status": "SUCCESS"}'


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [one.document for one in deliveries]


def send(transport: RedisTransport, *messages: bytes, queue: str = "q", priority: int = 0) -> None:
    transport.send([Outgoing(queue, one, priority) for one in messages])


# --- order -------------------------------------------------------------------------------------------


def test_the_lists_are_those_that_kombu_reads(
    transport: RedisTransport, server: redis.Redis, prefix: str
) -> None:
    for priority in range(10):
        send(transport, b"%d" % priority, priority=priority)
    found = {
        step: server.lrange(f"{prefix}q{suffix}", 0, -1)
        for step, suffix in ((0, ""), (3, "\x06\x163"), (6, "\x06\x166"), (9, "\x06\x169"))
    }
    assert found == {0: [b"2", b"1", b"0"], 3: [b"5", b"4", b"3"], 6: [b"8", b"7", b"6"], 9: [b"9"]}


def test_the_lowest_number_comes_first_whatever_queue_it_is_in(transport: RedisTransport) -> None:
    for priority in (9, 3, 0, 6):
        send(transport, b"a%d" % priority, queue="a", priority=priority)
        send(transport, b"b%d" % priority, queue="b", priority=priority)
    consumer = transport.consumer(["a", "b"], "owner", "worker")
    received: list[Delivery] = []
    while batch := consumer.reserve(3):
        received += batch
    assert [one.priority for one in received] == [0, 0, 3, 3, 6, 6, 9, 9]


def test_queues_of_one_step_take_turns(transport: RedisTransport) -> None:
    for queue in ("a", "b", "c"):
        send(transport, *(queue.encode() for _ in range(4)), queue=queue)
    consumer = transport.consumer(["a", "b", "c"], "owner", "worker")
    turns = [consumer.reserve(1)[0].queue for _ in range(6)]
    assert sorted(turns[:3]) == sorted(turns[3:]) == ["a", "b", "c"]


def test_what_has_a_record_comes_before_others_of_its_step(transport: RedisTransport) -> None:
    send(transport, b"crashed", b"new")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    consumer.settle([Outcome(held.tag, Verdict.REQUEUE, crashed=True, causes=("signal 11",))])
    assert documents(consumer.reserve(5)) == [b"crashed", b"new"]


def test_a_message_that_is_requeued_without_a_crash_goes_to_the_back(transport: RedisTransport) -> None:
    send(transport, b"first", b"second")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    consumer.settle([Outcome(held.tag, Verdict.REQUEUE)])
    assert documents(consumer.reserve(5)) == [b"second", b"first"]


def test_peeking_shows_the_order_of_service(transport: RedisTransport) -> None:
    send(transport, b"low", priority=9)
    send(transport, b"crashed", b"first", b"second")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    consumer.settle([Outcome(held.tag, Verdict.REQUEUE, crashed=True)])
    seen = transport.peek("q")
    assert [(one.document, one.priority, one.crashes) for one in seen] == [
        (b"crashed", 0, 1),
        (b"first", 0, 0),
        (b"second", 0, 0),
        (b"low", 9, 0),
    ]
    assert [one.document for one in transport.peek("q", 2)] == [b"crashed", b"first"]


# --- size --------------------------------------------------------------------------------------------


def test_a_batch_of_large_messages_is_bounded_by_its_bytes(transport: RedisTransport) -> None:
    large = b"x" * (1 << 20)
    for _ in range(24):
        send(transport, large)
    consumer = transport.consumer(["q"], "owner", "worker")
    first = consumer.reserve(24)
    assert BATCH_BYTES_MAX <= sum(len(one.document) for one in first) <= BATCH_BYTES_MAX + 4 * len(large)
    total = len(first)
    while batch := consumer.reserve(24):
        total += len(batch)
    assert total == 24


def test_promotion_is_bounded_by_its_bytes(transport: RedisTransport) -> None:
    large = b"x" * (1 << 20)
    for index in range(24):
        transport.send([Outgoing("q", large + b"%d" % index, 0, time.time() - 60)])
    transport.promote()
    moved = 24 - transport.depth("q").delayed
    assert 8 <= moved < 24
    transport.promote()
    transport.promote()
    assert transport.depth("q").ready == 24


def test_an_owner_with_very_many_messages_is_recovered_in_pieces(transport: RedisTransport) -> None:
    total = 1203
    send(transport, *(b"%d" % index for index in range(total)))
    dead = transport.consumer(["q"], "dead", "worker")
    held = 0
    while batch := dead.reserve(400):
        held += len(batch)
    assert held == total
    assert transport.recover("dead").returned == total
    received: list[Delivery] = []
    successor = transport.consumer(["q"], "owner", "worker")
    while batch := successor.reserve(400):
        received += batch
    assert documents(received) == [b"%d" % index for index in range(total)]
    assert successor.settle([Outcome(one.tag) for one in received]) == [True] * total


# --- when answers are lost -----------------------------------------------------------------------------


def test_what_a_reserve_took_whose_answer_was_lost_is_given_back_by_the_next(
    shared_redis: RedisServer, transport: RedisTransport, prefix: str
) -> None:
    with tcp_proxy(shared_redis.port) as proxy:
        cut = open_transport(f"redis://127.0.0.1:{proxy.port}/0", {"global_keyprefix": prefix})
        send(transport, *(b"%d" % index for index in range(6)))
        consumer = cut.consumer(["q"], "owner", "worker")
        (known,) = consumer.reserve(1)
        proxy.set(Mode.CUT_AFTER_REQUEST, times=1)
        with pytest.raises(BrokerUnavailable) as raised:
            consumer.reserve(3)
        assert raised.value.outcome_unknown
        assert transport.depth("q") == Depth(ready=2, delayed=0, in_work=4)
        assert documents(consumer.reserve(10)) == [b"1", b"2", b"3", b"4", b"5"]
        assert consumer.settle([Outcome(known.tag)]) == [True]
        cut.close()


def test_a_settle_whose_answer_was_lost_can_be_repeated(
    shared_redis: RedisServer, transport: RedisTransport, prefix: str
) -> None:
    with tcp_proxy(shared_redis.port) as proxy:
        cut = open_transport(f"redis://127.0.0.1:{proxy.port}/0", {"global_keyprefix": prefix})
        send(transport, b"m")
        consumer = cut.consumer(["q"], "owner", "worker")
        (held,) = consumer.reserve(1)
        outcome = Outcome(held.tag, follow_ups=(Outgoing("q", b"next"),))
        consumer.settle([Outcome(b"", follow_ups=outcome.follow_ups)])
        proxy.set(Mode.CUT_AFTER_REQUEST, times=1)
        with pytest.raises(BrokerUnavailable):
            consumer.settle([outcome])
        consumer.settle([outcome])
        assert documents(transport.consumer(["q"], "other", "worker").reserve(5)) == [b"next"]
        cut.close()


def test_an_owner_is_registered_as_soon_as_the_server_is_there(prefix: str) -> None:
    with running_redis() as server:
        transport = open_transport(server.url, {"global_keyprefix": prefix})
        server.kill()
        consumer = transport.consumer(["q"], "owner", "worker")
        with pytest.raises(BrokerUnavailable):
            consumer.reserve(1)
        server.start()
        send(transport, b"m")
        assert documents(consumer.reserve(1)) == [b"m"]
        assert transport.owners("worker") == ["owner"]
        transport.close()


def test_an_owner_whose_registration_is_gone_reserves_nothing(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    consumer = transport.consumer(["q"], "owner", "worker")
    server.delete(keys.owners)
    with pytest.raises(OwnerLost):
        consumer.reserve(1)


# --- recovery ------------------------------------------------------------------------------------------


def test_a_recovery_that_was_cut_short_is_finished_by_the_next(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    send(transport, b"a", b"b")
    consumer = transport.consumer(["q"], "owner", "worker")
    (first, _second) = consumer.reserve(2)
    # Whoever began it has fenced the owner and died.
    entry = server.hget(keys.owners, b"owner")
    server.hset(keys.owners, b"owner", b"!" + entry)
    with pytest.raises(OwnerLost):
        consumer.reserve(1)
    assert consumer.settle([Outcome(first.tag)]) == [True]
    assert transport.recover("owner").returned == 1
    assert not server.hexists(keys.owners, b"owner")


def test_a_damaged_entry_of_an_owner_is_named_and_nothing_is_lost(
    transport: RedisTransport, server: redis.Redis, keys: Keys
) -> None:
    send(transport, b"a")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    server.hset(keys.owners, b"owner", b"nonsense")
    with pytest.raises(DamagedOwner, match="owner 'owner'"):
        transport.recover("owner")
    server.hset(keys.owners, b"owner", Registered("worker", ("q",), (0, 3, 6, 9)).encoded())
    assert transport.recover("owner").returned == 1
    assert consumer.settle([Outcome(held.tag)]) == [False]


def test_fields_that_are_no_messages_stay_and_are_reported(
    transport: RedisTransport, server: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    send(transport, b"a")
    transport.consumer(["q"], "owner", "worker").reserve(1)
    server.hset(keys.held("owner"), b"somebody's", b"field")
    with caplog.at_level(logging.ERROR):
        assert transport.recover("owner").returned == 1
    assert "no message of owner" in caplog.text
    assert server.hgetall(keys.held("owner")) == {b"somebody's": b"field"}


def test_a_worker_that_renews_its_lease_in_time_keeps_its_messages(transport: RedisTransport) -> None:
    send(transport, b"a")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    transport.heartbeat("worker", 0.001)
    transport.heartbeat("worker", 60.0)
    assert transport.recover_lapsed() == Recovery()
    assert consumer.settle([Outcome(held.tag)]) == [True]


def test_a_forked_child_that_closes_its_copy_changes_nothing(transport: RedisTransport) -> None:
    send(transport, b"a")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    in_child(consumer.close)
    assert transport.owners("worker") == ["owner"]
    assert consumer.settle([Outcome(held.tag)]) == [True]


def test_an_owner_of_other_steps_is_recovered_to_where_its_messages_came_from(
    shared_redis: RedisServer, transport: RedisTransport, prefix: str, server: redis.Redis
) -> None:
    options = {"global_keyprefix": prefix, "priority_steps": [0, 5]}
    other = open_transport(shared_redis.url, options)
    send(other, b"m", priority=7)
    other.consumer(["q"], "owner", "worker").reserve(1)
    assert transport.recover("owner").returned == 1
    assert server.lrange(f"{prefix}q\x06\x165", 0, -1) == [b"m"]
    other.close()


# --- results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("db", [0, 1])
def test_results_are_settled_in_the_database_of_their_store(
    shared_redis: RedisServer, transport: RedisTransport, prefix: str, db: int
) -> None:
    store = open_results(shared_redis.url_of(db), {"global_keyprefix": prefix})
    assert transport.keeps(store)
    send(transport, b"a", b"b")
    consumer = transport.consumer(["q"], "owner", "worker")
    first, second = consumer.reserve(2)
    consumer.inform(second.tag, (StoredResult(f"{prefix}2", b'{"status": "STARTED"}'),))
    follow_ups = (Outgoing("q", b"next"),)
    outcome = Outcome(first.tag, results=(StoredResult(f"{prefix}1", SUCCESS),), follow_ups=follow_ups)
    assert consumer.settle([outcome, Outcome(second.tag)]) == [True, True]
    assert store.get([f"{prefix}1", f"{prefix}2"]) == [SUCCESS, b'{"status": "STARTED"}']
    assert documents(consumer.reserve(5)) == [b"next"]
    store.close()


def test_a_store_on_another_server_is_not_kept(transport: RedisTransport, own_redis: RedisServer) -> None:
    store = open_results(own_redis.url, {})
    assert not transport.keeps(store)
    store.close()


def test_nothing_is_said_about_a_message_that_is_no_longer_held(
    shared_redis: RedisServer, transport: RedisTransport, prefix: str
) -> None:
    store = open_results(shared_redis.url, {"global_keyprefix": prefix})
    send(transport, b"a")
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    transport.recover("owner")
    consumer.inform(held.tag, (StoredResult("late", b'{"status": "STARTED"}'),))
    assert consumer.settle([Outcome(held.tag)]) == [False]
    assert store.get(["late"]) == [None]
    store.close()


# --- rights --------------------------------------------------------------------------------------------

RIGHTS = "+@read +@write +@connection +@scripting +@pubsub +time +select +client"


def test_the_rights_that_are_documented_suffice(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    user = f"worker on >secret ~* &* -@all {RIGHTS}"
    with running_redis(users=[user]) as server, caplog.at_level(logging.WARNING):
        transport = open_transport(server.url_of(0, user="worker", password="secret"), {})
        send(transport, b"a", b"b", b"c", b"d")
        watch = transport.watch(["q"])
        consumer = transport.consumer(["q"], "owner", "worker")
        held = consumer.reserve(4)
        results = (StoredResult("id", SUCCESS),)
        outcomes = [
            Outcome(held[0].tag, results=results, follow_ups=(Outgoing("q", b"n"),)),
            Outcome(held[1].tag, Verdict.DEFER, due_wall_s=4e9),
            Outcome(held[2].tag, Verdict.DEAD, reason="test"),
            Outcome(held[3].tag, Verdict.REQUEUE, crashed=True),
        ]
        assert consumer.settle(outcomes) == [True] * 4
        transport.heartbeat("worker", 60.0)
        transport.promote()
        transport.recover_lapsed()
        assert transport.maintain() == []
        assert transport.depth("q") == Depth(ready=2, delayed=1, in_work=0)
        assert [transport.dead_replay(one.key) for one in transport.dead_letters()] == [True]
        consumer.close()
        watch.close()
        transport.close()
    assert caplog.text == ""


def test_a_right_that_is_missing_is_named_with_the_user(prefix: str) -> None:
    user = "worker on >secret ~allowed* &* +@all"
    with running_redis(users=[user]) as server:
        transport = open_transport(server.url_of(0, user="worker", password="secret"), {})
        consumer = transport.consumer(["q"], "owner", "worker")
        with pytest.raises(BrokerUnavailable, match="'worker'.*NOPERM") as raised:
            consumer.reserve(1)
        assert "secret" not in str(raised.value)
        transport.close()


@pytest.mark.parametrize("command", ["hset", "rpop", "hdel", "xadd", "zrem", "rpush", "set", "unlink"])
def test_nothing_is_taken_by_a_user_who_could_not_finish_it(prefix: str, command: str) -> None:
    user = f"worker on >secret ~* &* +@all -{command}"
    with running_redis(users=[user]) as server:
        sender = open_transport(server.url, {})
        send(sender, b"m")
        transport = open_transport(server.url_of(0, user="worker", password="secret"), {})
        consumer = transport.consumer(["q"], "owner", "worker")
        with pytest.raises(BrokerUnavailable, match=command.upper()):
            consumer.reserve(1)
        assert sender.depth("q") == Depth(ready=1, delayed=0, in_work=0)
        server.cli("acl", "setuser", "worker", f"+{command}")
        assert documents(consumer.reserve(1)) == [b"m"]
        transport.close()
        sender.close()


def test_a_waiting_reserve_does_not_spin(transport: RedisTransport, server: redis.Redis) -> None:
    consumer = transport.consumer(["q"], "owner", "worker")
    consumer.reserve(1)

    def calls() -> int:
        return int(server.info("commandstats")["cmdstat_evalsha"]["calls"])

    before = calls()
    assert consumer.reserve(1, timeout_s=1.0) == []
    assert calls() - before < 40
