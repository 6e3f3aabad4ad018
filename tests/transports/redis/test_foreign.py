"""What dead kombu consumers held is given back, by kombu's rules, and never lost."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Exchange, Producer, Queue
from kombu.message import Message as KombuMessage

from prefork.transports.base import QueueDeclaration
from prefork.transports.redis import foreign
from prefork.transports.redis.foreign import Restorer, read_entry
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.link import Link
from prefork.transports.redis.pool import Pool
from prefork.transports.redis.publish import Publisher
from prefork.transports.redis.settings import read_settings
from support.redis_server import RedisServer
from support.waiting import eventually

HOUR_S = 3600.0


class Scene:
    """Kombu's structures under a prefix of their own."""

    def __init__(
        self, server: RedisServer, prefix: str, *declared: QueueDeclaration, **options: object
    ) -> None:
        self.server = server
        self.prefix = prefix
        self.settings = read_settings(server.url, {"global_keyprefix": prefix, **options})
        self.keys = Keys(self.settings)
        self.link = Link(self.settings)
        pool = Pool(self.settings)
        weakref.finalize(self, self.link.close)
        weakref.finalize(self, pool.close)
        publisher = Publisher(self.settings, pool, {one.name: one for one in declared})
        self.restorer = Restorer(self.settings, self.keys, publisher)

    def hold(
        self, tag: str, *, age_s: float = 2 * HOUR_S, exchange: str = "", key: str = "q", priority: int = 0
    ) -> None:
        """Somebody holds a message for so long."""
        message = {
            "body": tag,
            "headers": {"id": tag},
            "properties": {
                "delivery_tag": tag,
                "priority": priority,
                "delivery_info": {"exchange": exchange},
            },
        }
        self.entry(tag, json.dumps([message, exchange, key]), age_s)

    def entry(self, tag: str, value: str, age_s: float = 2 * HOUR_S) -> None:
        self.link.call("HSET", self.key("unacked"), tag, value)
        self.link.call("ZADD", self.key("unacked_index"), time.time() - age_s, tag)

    def key(self, name: str) -> str:
        return self.prefix + name

    def held(self) -> tuple[set[str], set[str]]:
        entries = self.link.call("HKEYS", self.key("unacked"))
        index = self.link.call("ZRANGE", self.key("unacked_index"), 0, -1)
        return {one.decode() for one in entries}, {one.decode() for one in index}

    def bodies(self, queue: str = "q", priority: int = 0) -> list[str]:
        """In the order of service."""
        found = self.link.call("LRANGE", self.keys.list_of(queue, priority), 0, -1)
        return [json.loads(one)["body"] for one in reversed(found)]


@pytest.fixture
def scene(shared_redis: RedisServer, prefix: str) -> Scene:
    return Scene(shared_redis, prefix)


def test_what_is_overdue_returns_as_the_next_oldest_first(scene: Scene) -> None:
    for number in range(120):
        scene.hold(f"m{number:03}", age_s=2 * HOUR_S - number)
    scene.link.call("LPUSH", scene.keys.list_of("q", 0), json.dumps({"body": "waiting"}))
    assert scene.restorer.restore(scene.link) == (120, [])
    assert scene.bodies() == [f"m{number:03}" for number in range(120)] + ["waiting"]
    assert scene.held() == (set(), set())


def test_what_is_younger_than_the_visibility_timeout_is_left_alone(scene: Scene) -> None:
    scene.hold("young", age_s=HOUR_S - 5)
    scene.hold("old", age_s=HOUR_S + 5)
    assert scene.restorer.restore(scene.link) == (1, [])
    assert scene.bodies() == ["old"]
    assert scene.held() == ({"young"}, {"young"})


def test_a_clock_that_runs_ahead_restores_nothing_early(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.hold("young", age_s=10)
    monkeypatch.setattr(foreign, "time", lambda: time.time() + 2 * HOUR_S)
    assert scene.restorer.restore(scene.link) == (0, [])


def test_a_restored_message_says_so_and_keeps_its_priority(scene: Scene) -> None:
    scene.hold("m", priority=7)
    scene.restorer.restore(scene.link)
    (found,) = scene.link.call("LRANGE", scene.keys.list_of("q", 7), 0, -1)
    message = json.loads(found)
    assert message["headers"]["redelivered"] is True
    assert message["properties"]["delivery_info"]["redelivered"] is True
    assert message["properties"]["delivery_tag"] == "m"


def test_a_message_of_an_exchange_follows_its_bindings(shared_redis: RedisServer, prefix: str) -> None:
    declared = [QueueDeclaration(name, exchange="shop", routing_key="k") for name in ("one", "two")]
    scene = Scene(shared_redis, prefix, *declared)
    scene.hold("m", exchange="shop", key="k")
    assert scene.restorer.restore(scene.link) == (1, [])
    assert scene.bodies("one") == scene.bodies("two") == ["m"]


@pytest.mark.parametrize("kind", ["direct", "fanout"])
def test_what_no_binding_leads_anywhere_stays_and_is_said_once(
    shared_redis: RedisServer, prefix: str, kind: str
) -> None:
    declared = [QueueDeclaration("b", exchange="news", exchange_type="fanout")] if kind == "fanout" else []
    scene = Scene(shared_redis, prefix, *declared, unacked_restore_interval=0.001)
    for number in range(60):
        scene.hold(f"lost{number}", exchange="news", key="k")
    scene.hold("found", age_s=3 * HOUR_S)
    (problem, restored) = scene.restorer.turn(scene.link)
    assert "'news'" in problem and "stay there" in problem
    assert "restored 1 messages" in restored
    assert len(scene.held()[0]) == len(scene.held()[1]) == 60
    assert scene.bodies() == ["found"]
    time.sleep(0.02)
    assert scene.restorer.turn(scene.link) == []


def test_a_message_for_nobody_goes_to_the_deadletter_queue(shared_redis: RedisServer, prefix: str) -> None:
    scene = Scene(shared_redis, prefix, deadletter_queue="lost")
    scene.hold("m", key="")
    scene.hold("n", exchange="x", key="y")
    assert scene.restorer.restore(scene.link) == (2, [])
    assert sorted(scene.bodies("lost")) == ["m", "n"]


def test_without_a_queue_it_stays(scene: Scene) -> None:
    scene.hold("m", key="")
    restored, problems = scene.restorer.restore(scene.link)
    assert (restored, len(problems), scene.held()[0]) == (0, 1, {"m"})


@pytest.mark.parametrize("value", ["", "[]", "null", "[1, 2, 3]", "[{}, null, null]", "{" * 9, "[[[", "1"])
def test_a_damaged_entry_stays_and_is_said(scene: Scene, value: str) -> None:
    scene.entry("bad", value)
    scene.hold("good", age_s=3 * HOUR_S)
    restored, (problem,) = scene.restorer.restore(scene.link)
    assert restored == 1 and "'bad'" in problem
    assert scene.held() == ({"bad"}, {"bad"})


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_no_entry_raises(entry: bytes) -> None:
    found = read_entry(entry)
    assert found is None or json.loads(found.document) is not None


def test_an_index_without_an_entry_is_cleared(scene: Scene) -> None:
    scene.link.call("ZADD", scene.key("unacked_index"), 1, "ghost")
    assert scene.restorer.restore(scene.link) == (0, [])
    assert scene.held() == (set(), set())


def test_a_key_of_another_type_keeps_only_its_own_messages(scene: Scene) -> None:
    scene.link.call("SET", scene.keys.list_of("taken", 0), "mine")
    scene.hold("stays", key="taken")
    scene.hold("goes")
    restored, (problem,) = scene.restorer.restore(scene.link)
    assert restored == 1 and "taken" in problem
    assert scene.bodies() == ["goes"]
    assert scene.held() == ({"stays"}, {"stays"})


def test_one_that_was_renewed_or_acknowledged_meanwhile_is_not_restored(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.hold("renewed")
    scene.hold("acknowledged")
    scene.hold("other")
    real = foreign.read_entry

    def meanwhile(entry: bytes) -> foreign.Foreign | None:
        scene.link.call("ZADD", scene.key("unacked_index"), time.time(), "renewed")
        scene.link.call("ZREM", scene.key("unacked_index"), "acknowledged")
        scene.link.call("HDEL", scene.key("unacked"), "acknowledged")
        scene.link.call("HSET", scene.key("unacked"), "other", '[{"properties": {}}, "", "q"]')
        return real(entry)

    monkeypatch.setattr(foreign, "read_entry", meanwhile)
    restored, problems = scene.restorer.restore(scene.link)
    assert (restored, problems) == (1, [])
    assert scene.held() == ({"renewed"}, {"renewed"})


def test_who_holds_the_lock_is_left_to_it(scene: Scene) -> None:
    scene.hold("m")
    scene.link.call("SET", scene.key("unacked_mutex"), "somebody")
    assert scene.restorer.restore(scene.link) == (0, [])
    assert scene.link.call("GET", scene.key("unacked_mutex")) == b"somebody"
    scene.link.call("DEL", scene.key("unacked_mutex"))
    assert scene.restorer.restore(scene.link) == (1, [])
    assert scene.link.call("EXISTS", scene.key("unacked_mutex")) == 0


def test_a_lock_that_ran_out_is_not_taken_from_its_next_holder(scene: Scene) -> None:
    with scene.restorer._locked(scene.link) as ours:
        assert ours
        assert 0 < scene.link.call("PTTL", scene.key("unacked_mutex")) <= 300_000
        scene.link.call("SET", scene.key("unacked_mutex"), "next")
    assert scene.link.call("GET", scene.key("unacked_mutex")) == b"next"


def test_a_turn_is_bounded_and_the_next_goes_on(shared_redis: RedisServer, prefix: str) -> None:
    scene = Scene(shared_redis, prefix, unacked_restore_limit=70)
    for number in range(100):
        scene.hold(f"m{number}")
    assert scene.restorer.restore(scene.link)[0] == 70
    assert scene.restorer.restore(scene.link)[0] == 30


def test_it_looks_as_seldom_as_kombu(scene: Scene) -> None:
    assert scene.restorer.turn(scene.link) == []
    scene.hold("m")
    assert scene.restorer.turn(scene.link) == []
    assert 90.0 < scene.restorer._next_mono_s - time.monotonic() <= 100.0
    scene.restorer._next_mono_s = 0.0
    assert "restored 1 messages" in scene.restorer.turn(scene.link)[0]


def test_it_looks_as_often_as_the_options_say(shared_redis: RedisServer, prefix: str) -> None:
    scene = Scene(shared_redis, prefix, unacked_restore_interval=2, unacked_restore_throttle=3)
    scene.restorer.turn(scene.link)
    assert 5.0 < scene.restorer._next_mono_s - time.monotonic() <= 6.0


# --- with kombu ---------------------------------------------------------------------------------


@pytest.fixture
def kombu(shared_redis: RedisServer, prefix: str) -> Iterator[Connection]:
    options = {"global_keyprefix": prefix, "visibility_timeout": HOUR_S}
    with Connection(shared_redis.url, transport_options=options) as connection:
        yield connection


def test_what_a_kombu_consumer_took_and_never_acknowledged_returns_to_kombu(
    kombu: Connection, scene: Scene
) -> None:
    exchange = Exchange("shop", "topic")
    queue = Queue("orders", exchange, routing_key="order.*")
    dead = kombu.clone()
    with dead.channel() as channel:
        Producer(channel).publish(
            {"n": 1}, exchange=exchange, routing_key="order.new", declare=[queue(channel)], priority=3
        )
        taken = queue(channel).get()
        assert taken.payload == {"n": 1}
        assert len(scene.held()[0]) == 1
        assert scene.restorer.restore(scene.link) == (0, [])
        scene.link.call("ZADD", scene.key("unacked_index"), 1, *scene.held()[1])
        declared = QueueDeclaration("o", exchange="shop", exchange_type="topic", routing_key="none")
        restorer = Scene(scene.server, scene.prefix, declared).restorer
        assert restorer.restore(scene.link) == (1, [])
        with kombu.channel() as other:
            again = eventually(lambda: queue(other).get())
            assert isinstance(again, KombuMessage)
            assert (again.payload, again.headers["redelivered"]) == ({"n": 1}, True)
            again.ack()
        taken.ack()
    assert scene.held() == (set(), set())
