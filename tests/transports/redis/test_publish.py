"""Sending to Redis: lists, bindings, schedules, exchanges; all of it or nothing."""

from __future__ import annotations

import json
import threading
import time
import uuid
import weakref

import pytest
from kombu import Connection, Exchange, Producer, Queue

from prefork.transports.base import Outgoing, QueueDeclaration
from prefork.transports.errors import BrokerFull, BrokerUnavailable, Unroutable
from prefork.transports.redis.faults import WrongKeyType
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.link import Link
from prefork.transports.redis.pool import Pool
from prefork.transports.redis.publish import Publisher
from prefork.transports.redis.settings import read_settings
from support.redis_server import RedisServer
from support.waiting import eventually


class Scene:
    """A publisher with a prefix of its own, and a look at what it wrote."""

    def __init__(
        self, server: RedisServer, prefix: str, *declared: QueueDeclaration, **options: object
    ) -> None:
        self.settings = read_settings(server.url, {"global_keyprefix": prefix, **options})
        self.keys = Keys(self.settings)
        self.pool = Pool(self.settings)
        self.link = Link(self.settings)
        weakref.finalize(self, self.link.close)
        weakref.finalize(self, self.pool.close)
        self.publisher = Publisher(self.settings, self.pool, {one.name: one for one in declared})

    def key(self, name: str) -> bytes:
        return self.keys.prefix + name.encode()

    def list(self, queue: str, priority: int = 0) -> list[bytes]:
        """Oldest first."""
        found: list[bytes] = self.link.call("LRANGE", self.keys.list_of(queue, priority), 0, -1)
        return found[::-1]

    def members(self, name: str) -> set[bytes]:
        return set(self.link.call("SMEMBERS", self.key(name)))

    def everything(self) -> set[bytes]:
        return set(self.link.call("KEYS", self.key("*")))

    def commands(self) -> int:
        """How many commands the server has processed."""
        info = self.link.call("INFO", "stats").decode()
        return int(info.split("total_commands_processed:")[1].split()[0])


@pytest.fixture
def scene(shared_redis: RedisServer, prefix: str) -> Scene:
    return Scene(shared_redis, prefix)


def document(tag: str = "") -> bytes:
    return json.dumps({"body": "", "properties": {"delivery_tag": tag or str(uuid.uuid4())}}).encode()


def tags(documents: list[bytes]) -> list[str]:
    return [json.loads(one)["properties"]["delivery_tag"] for one in documents]


def test_a_message_is_pushed_to_the_list_of_its_step(scene: Scene) -> None:
    scene.publisher.send([Outgoing("q", b"first"), Outgoing("q", b"second"), Outgoing("q", b"low", 7)])
    assert scene.list("q") == [b"first", b"second"]
    assert scene.list("q", 6) == [b"low"]


def test_first_use_declares_the_binding_in_the_same_call(scene: Scene) -> None:
    scene.publisher.send([Outgoing("q", b"m")])
    member = b"q\x06\x16\x06\x16q"
    assert scene.members("_kombu.binding.q") == {member}
    assert scene.members("_kombu.binding_permanent.q") == {member}


def test_later_messages_cost_one_command(own_redis: RedisServer) -> None:
    scene = Scene(own_redis, "")
    scene.publisher.send([Outgoing("q", b"m")])
    before = scene.commands()
    for _ in range(10):
        scene.publisher.send([Outgoing("q", b"m")])
    scene.publisher.send([Outgoing("q", b"m")] * 500)
    assert scene.commands() - before == 12  # with the one that asks
    assert scene.link.call("LLEN", "q") == 511


def test_nothing_to_send_sends_nothing(scene: Scene) -> None:
    scene.publisher.send([])
    assert scene.everything() == set()


def test_thousands_of_messages_for_several_queues_are_one_call(scene: Scene) -> None:
    scene.publisher.send([Outgoing(f"q{n % 3}", b"%d" % n, n % 4) for n in range(6000)])
    lists = [scene.list(f"q{queue}", step) for queue in range(3) for step in (0, 3)]
    assert sum(map(len, lists)) == 6000
    assert all(one == sorted(one, key=int) for one in lists)


def test_a_delayed_message_goes_to_the_schedule(scene: Scene) -> None:
    due = time.time() + 60.25
    scene.publisher.send([Outgoing("q", b"later", 4, due), Outgoing("q", b"now")])
    member, score = scene.link.call("ZRANGE", scene.keys.due("q"), 0, -1, "WITHSCORES")
    head, _newline, found = member.partition(b"\n")
    assert (found, head.split(b":")[1:3], float(score)) == (b"later", [b"3", b"0"], due)
    assert scene.link.call("SMEMBERS", scene.keys.due_queues) == [b"q"]
    assert scene.list("q") == [b"now"]


@pytest.mark.parametrize("kind", ["list", "schedule", "names"])
def test_a_key_of_another_type_refuses_the_call_and_changes_nothing(scene: Scene, kind: str) -> None:
    due = time.time() + 60
    key = {
        "list": scene.keys.list_of("bad", 0),
        "schedule": scene.keys.due("bad"),
        "names": scene.keys.due_queues,
    }[kind]
    scene.link.call("SET", key, "mine")
    before = scene.everything()
    with pytest.raises(WrongKeyType) as refused:
        scene.publisher.send([Outgoing("good", b"m"), Outgoing("bad", b"m"), Outgoing("bad", b"m", 0, due)])
    assert refused.value.key == key.decode()
    assert scene.everything() == before
    scene.publisher.send([Outgoing("good", b"m")])
    assert scene.list("good") == [b"m"]


def test_a_known_queue_whose_key_is_taken_is_refused(scene: Scene) -> None:
    scene.publisher.send([Outgoing("q", b"m")])
    scene.link.call("DEL", scene.key("q"))
    scene.link.call("SET", scene.key("q"), "mine")
    with pytest.raises(WrongKeyType):
        scene.publisher.send([Outgoing("q", b"m")])


def test_a_binding_table_of_another_type_stops_no_message(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.link.call("SET", scene.key("_kombu.binding.q"), "mine")
    scene.publisher.send([Outgoing("q", b"m")])
    assert scene.list("q") == [b"m"]
    assert "no set of bindings" in caplog.text


def test_a_full_server_refuses_the_whole_call(own_redis: RedisServer) -> None:
    scene = Scene(own_redis, "")
    scene.link.call("CONFIG", "SET", "maxmemory", "1")
    for messages in ([Outgoing("q", b"m")], [Outgoing("q", b"m"), Outgoing("r", b"m", 0, 1e12)]):
        with pytest.raises(BrokerFull):
            scene.publisher.send(messages)
    assert scene.everything() == set()
    scene.link.call("CONFIG", "SET", "maxmemory", "0")
    scene.publisher.send([Outgoing("q", b"m")])
    assert scene.list("q") == [b"m"]


def test_sending_survives_the_loss_of_scripts(own_redis: RedisServer) -> None:
    scene = Scene(own_redis, "")
    for number in range(3):
        scene.link.call("SCRIPT", "FLUSH")
        scene.publisher.send([Outgoing("q", b"a"), Outgoing(f"r{number}", b"b")])
    assert len(scene.list("q")) == 3


def test_a_server_that_is_away_is_said_within_the_deadline(own_redis: RedisServer) -> None:
    scene = Scene(own_redis, "", publish_deadline=0.5)
    own_redis.kill()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as refused:
        scene.publisher.send([Outgoing("q", b"m")])
    assert not refused.value.outcome_unknown
    assert time.monotonic() - began < 2.0


# --- queues that expire -------------------------------------------------------------------------


def test_an_expiring_queue_is_given_time_by_each_message(shared_redis: RedisServer, prefix: str) -> None:
    declared = QueueDeclaration("r", exchange="r", routing_key="r", arguments={"x-expires": 50_000})
    scene = Scene(shared_redis, prefix, declared)
    for _ in range(2):
        scene.publisher.send([Outgoing("r", b"m")])
        assert 40_000 < scene.link.call("PTTL", scene.key("r")) <= 50_000
        scene.link.call("PEXPIRE", scene.key("r"), 30_000)
    scene.publisher.keep(scene.link, ["r", "other"])
    assert 40_000 < scene.link.call("PTTL", scene.key("r")) <= 50_000
    assert scene.members("_kombu.binding_permanent.r") == set()
    deadline_ms = float(scene.link.call("ZSCORE", scene.key("_kombu.binding_deadlines"), "r"))
    assert deadline_ms / 1000 == pytest.approx(time.time() + 3600, abs=60)


# --- exchanges ----------------------------------------------------------------------------------


def test_a_direct_exchange_leads_to_every_queue_bound_by_the_key(
    shared_redis: RedisServer, prefix: str
) -> None:
    declared = [
        QueueDeclaration("one", exchange="shop", routing_key="paid"),
        QueueDeclaration("two", exchange="shop", routing_key="paid"),
        QueueDeclaration("three", exchange="shop", routing_key="sent"),
    ]
    scene = Scene(shared_redis, prefix, *declared)
    sent = document("the-tag")
    scene.publisher.send([Outgoing("one", sent, exchange="shop", routing_key="paid")])
    copies = tags(scene.list("one") + scene.list("two"))
    assert "the-tag" in copies and len(set(copies)) == 2
    assert scene.list("three") == []


def test_kombu_and_we_find_each_others_queues_by_topic(shared_redis: RedisServer, prefix: str) -> None:
    ours = QueueDeclaration("ours", exchange="news", exchange_type="topic", routing_key="eu.#")
    scene = Scene(shared_redis, prefix, ours)
    scene.publisher.declare(scene.link, ["ours"])
    exchange = Exchange("news", "topic")
    with Connection(shared_redis.url, transport_options={"global_keyprefix": prefix}) as connection:
        theirs = Queue("theirs", exchange, routing_key="*.sport")
        with connection.channel() as channel:
            theirs(channel).declare()
            Producer(channel).publish({"by": "kombu"}, exchange=exchange, routing_key="eu.sport")
    scene.publisher.send([Outgoing("ours", document(), exchange="news", routing_key="eu.sport")])
    scene.publisher.send([Outgoing("ours", document(), exchange="news", routing_key="us.sport")])
    assert (len(scene.list("ours")), len(scene.list("theirs"))) == (2, 3)
    assert scene.publisher.queues_of(scene.link, "news", "eu.sport") == ["ours", "theirs"]


def test_bindings_are_declared_again_on_a_server_that_was_emptied(own_redis: RedisServer) -> None:
    scene = Scene(own_redis, "", QueueDeclaration("q", exchange="shop", routing_key="k"))
    for _ in range(2):
        scene.publisher.send([Outgoing("q", document(), exchange="shop", routing_key="k")])
        assert len(scene.list("q")) == 1
        scene.link.call("FLUSHALL")


def test_a_message_for_nobody_is_refused_and_so_is_what_was_sent_with_it(scene: Scene) -> None:
    lost = Outgoing("q", document(), exchange="shop", routing_key="k")
    for messages in ([lost], [Outgoing("fine", document()), lost]):
        with pytest.raises(Unroutable, match="no queue takes routing key 'k' of exchange 'shop'") as refused:
            scene.publisher.send(messages)
        assert refused.value.permanent
    assert scene.everything() == set()


def test_a_message_for_nobody_goes_to_the_deadletter_queue(shared_redis: RedisServer, prefix: str) -> None:
    scene = Scene(shared_redis, prefix, deadletter_queue="lost")
    scene.publisher.send([Outgoing("q", document(), exchange="shop", routing_key="k")])
    assert len(scene.list("lost")) == 1
    assert scene.publisher.queues_of(scene.link, "shop", "k") == ["lost"]


def test_a_fanout_message_is_published_with_what_is_stored(shared_redis: RedisServer, prefix: str) -> None:
    scene = Scene(shared_redis, prefix, QueueDeclaration("b", exchange="all", exchange_type="fanout"))
    wire = scene.link.connection()
    try:
        wire.send_command("SUBSCRIBE", prefix + "/0.all")
        assert wire.read_response(5.0)[0] == b"subscribe"
        scene.publisher.send([Outgoing("b", document("x"), exchange="all"), Outgoing("q", b"m")])
        _kind, _channel, found = wire.read_response(5.0)
    finally:
        wire.close()
    assert tags([found]) == ["x"]
    assert scene.list("b") == [] and scene.list("q") == [b"m"]


def test_a_message_that_follows_an_exchange_keeps_its_time_and_priority(
    shared_redis: RedisServer, prefix: str
) -> None:
    scene = Scene(shared_redis, prefix, QueueDeclaration("q", exchange="shop", routing_key="k"))
    message = Outgoing("q", document(), 6, 1e12, "shop", "k")
    (found,), announced = scene.publisher.resolve(scene.link, [message])
    assert (found.queue, found.priority, found.due_wall_s, found.exchange) == ("q", 6, 1e12, "")
    assert announced == []


def test_many_threads_send_at_once(scene: Scene) -> None:
    def work(thread: int) -> None:
        for number in range(50):
            scene.publisher.send([Outgoing(f"q{number % 2}", b"%d" % thread)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scene.list("q0")) + len(scene.list("q1")) == 400


def test_names_of_queues_are_not_remembered_without_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.transports.redis.publish._PLACES_MAX", 10)
    for number in range(50):
        scene.publisher.send([Outgoing(f"q{number}", b"m")])
        with pytest.raises(Unroutable):
            scene.publisher.send([Outgoing("x", document(), exchange=f"e{number}", routing_key="k")])
    assert max(len(scene.publisher._places), len(scene.publisher._declared)) <= 12
    assert eventually(lambda: scene.list("q49")) == [b"m"]
