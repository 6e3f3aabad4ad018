"""The way back: everything that waits in our own structures returns to kombu's lists."""

from __future__ import annotations

import time
import weakref

import pytest

from prefork.transports.base import Outcome, Outgoing, Released, Releases, Verdict
from prefork.transports.errors import LeasesHeld
from prefork.transports.memory import MemoryTransport
from prefork.transports.redis import open_transport
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings
from support.redis_server import RedisServer


class Scene:
    """A broker with a prefix of its own."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        options = {"global_keyprefix": prefix}
        self.settings = read_settings(server.url, options)
        self.keys = Keys(self.settings)
        self.link = Link(self.settings)
        self.transport = open_transport(server.url, options)
        weakref.finalize(self, self.link.close)
        weakref.finalize(self, self.transport.close)

    def list(self, queue: str = "q", priority: int = 0) -> list[bytes]:
        """In the order of service."""
        found: list[bytes] = self.link.call("LRANGE", self.keys.list_of(queue, priority), 0, -1)
        return found[::-1]

    def send(self, *documents: bytes, queue: str = "q", due: float | None = None, priority: int = 0) -> None:
        self.transport.send([Outgoing(queue, document, priority, due) for document in documents])

    def hold(self, owner: str, worker: str, count: int, *queues: str, lease_s: float = 0.0) -> list[bytes]:
        """A worker takes messages, and has a lease for so long."""
        consumer = self.transport.consumer(queues or ("q",), owner, worker)
        taken = [one.document for one in consumer.reserve(count)]
        self.transport.heartbeat(worker, lease_s)
        return taken

    def own_keys(self) -> list[bytes]:
        """What is left of our own structures, but for the names of queues."""
        found = self.link.call("KEYS", self.keys.prefix + b"prefork:*")
        return [key for key in found if key != self.keys.queues]


@pytest.fixture
def scene(shared_redis: RedisServer, prefix: str) -> Scene:
    return Scene(shared_redis, prefix)


def test_it_is_a_transport_that_can_release(scene: Scene) -> None:
    assert isinstance(scene.transport, Releases)
    assert not isinstance(MemoryTransport("release"), Releases)


def test_delayed_messages_return_byte_by_byte_in_order_of_their_time(scene: Scene) -> None:
    later = time.time() + 1000
    documents = [b"\xff\n%d" % number for number in range(250)]
    for number, document in enumerate(documents):
        scene.send(document, due=later + number)
    scene.send(b"urgent", due=later, priority=9)
    assert scene.transport.release() == Released(delayed=251)
    assert scene.list() == documents
    assert scene.list(priority=9) == [b"urgent"]
    assert scene.own_keys() == []


def test_delayed_messages_come_after_what_waits(scene: Scene) -> None:
    scene.send(b"later", due=time.time() + 1000)
    scene.send(b"now")
    scene.transport.release()
    assert scene.list() == [b"now", b"later"]


def test_what_dead_workers_held_is_next_again_and_in_order(scene: Scene) -> None:
    scene.send(*(b"%03d" % number for number in range(300)))
    scene.hold("w.1", "w", 100)
    scene.hold("w.2", "w", 100)
    assert scene.transport.release() == Released(held=200)
    assert sorted(scene.list()) == [b"%03d" % number for number in range(300)]
    assert scene.list()[200:] == [b"%03d" % number for number in range(200, 300)]
    assert scene.own_keys() == []


def test_messages_with_a_record_return_in_front_of_their_list(scene: Scene) -> None:
    scene.send(*(b"%d" % number for number in range(6)))
    consumer = scene.transport.consumer(["q"], "w.1", "w")
    first, second, third = consumer.reserve(3)
    consumer.settle([Outcome(first.tag, Verdict.REQUEUE, crashed=True)])
    scene.transport.heartbeat("w", 0.0)
    assert scene.transport.recover_lapsed().suspects == 2
    done = scene.transport.release()
    assert (done.recorded, done.held) == (3, 0)
    assert "1 messages lost the record" in done.problems[0]
    assert sorted(scene.list()[:3]) == [b"0", b"1", b"2"] and scene.list()[3:] == [b"3", b"4", b"5"]
    assert scene.own_keys() == []
    assert second.document and third.document


def test_a_living_worker_forbids_it(scene: Scene) -> None:
    scene.send(b"a", b"b")
    scene.hold("w.1", "w", 1, lease_s=30.0)
    with pytest.raises(LeasesHeld, match=r"w \((29|30) s\)") as refused:
        scene.transport.release()
    assert set(refused.value.leases) == {"w"} == set(scene.transport.leases())
    assert scene.list() == [b"b"]


def test_one_queue_can_be_released_beside_workers_of_others(scene: Scene) -> None:
    later = time.time() + 1000
    scene.send(b"q-held", b"q-waits")
    scene.send(b"r-held", queue="r")
    for queue in "qr":
        scene.send(b"later", queue=queue, due=later)
    scene.hold("dead.1", "dead", 1, "q")
    scene.hold("alive.1", "alive", 1, "r", lease_s=30.0)
    assert scene.transport.leases("q") == {}
    assert scene.transport.release("q") == Released(delayed=1, held=1)
    assert scene.list() == [b"q-held", b"q-waits", b"later"]
    assert (scene.transport.depth("r").delayed, scene.transport.depth("r").in_work) == (1, 1)
    with pytest.raises(LeasesHeld):
        scene.transport.release("r")


def test_force_takes_it_from_the_living_who_then_can_settle_nothing(scene: Scene) -> None:
    scene.send(b"m")
    consumer = scene.transport.consumer(["q"], "w.1", "w")
    (taken,) = consumer.reserve(1)
    scene.transport.heartbeat("w", 30.0)
    assert scene.transport.release(force=True) == Released(held=1)
    assert consumer.settle([Outcome(taken.tag)]) == [False]
    assert scene.list() == [b"m"]


def test_it_is_done_again_without_harm(scene: Scene) -> None:
    scene.send(b"m", due=time.time() + 1000)
    assert scene.transport.release() == Released(delayed=1)
    assert scene.transport.release() == Released()
    assert scene.transport.release("nothing-of-that-name") == Released()


def test_damaged_entries_become_dead_letters(scene: Scene) -> None:
    scene.send(b"m", due=time.time() + 1000)
    scene.link.call("ZADD", scene.keys.due("q"), 1, "damaged")
    done = scene.transport.release()
    assert (done.delayed, done.recorded) == (1, 0)
    assert "1 damaged" in done.problems[0]
    letters = {letter.document: letter.reason for letter in scene.transport.dead_letters()}
    assert letters == {b"damaged": "bad-schedule"}


@pytest.mark.parametrize("document", [b"of a foreigner", b"two\nlines", b"\n", b"1:2\nx"])
def test_what_lies_without_a_record_among_those_that_have_one_returns_as_it_is(
    scene: Scene, document: bytes
) -> None:
    scene.link.call("RPUSH", scene.keys.marked(scene.keys.list_of("q", 0)), document)
    scene.link.call("SADD", scene.keys.marked_lists, scene.keys.list_of("q", 0))
    assert scene.transport.release() == Released(recorded=1)
    assert scene.list() == [document]


def test_a_damaged_owner_is_said_and_the_others_are_released(scene: Scene) -> None:
    scene.send(b"m")
    scene.hold("w.1", "w", 1)
    scene.link.call("HSET", scene.keys.owners, "w.0", "damaged")
    done = scene.transport.release()
    assert done.held == 1 and "'w.0'" in done.problems[0]
    assert scene.list() == [b"m"]


@pytest.mark.parametrize("which", ["list", "schedule", "marked", "dead"])
def test_a_key_of_another_type_stops_it_before_anything_is_lost(scene: Scene, which: str) -> None:
    scene.send(b"m", due=time.time() + 1000)
    source = scene.keys.list_of("q", 0)
    scene.link.call("SADD", scene.keys.marked_lists, source)
    key = {
        "list": source,
        "schedule": scene.keys.due("q"),
        "marked": scene.keys.marked(source),
        "dead": scene.keys.dead,
    }[which]
    waits = scene.link.call("ZRANGE", scene.keys.due("q"), 0, -1)
    scene.link.call("RENAME", key, scene.keys.prefix + b"aside") if which == "schedule" else None
    scene.link.call("SET", key, "mine")
    done = scene.transport.release()
    assert any(key.decode() in problem for problem in done.problems)
    if which in ("list", "dead"):
        assert scene.link.call("ZRANGE", scene.keys.due("q"), 0, -1) == waits
    scene.link.call("DEL", key)
    if which == "schedule":
        scene.link.call("RENAME", scene.keys.prefix + b"aside", key)
    scene.transport.release()
    assert scene.list() == [b"m"]


def test_a_full_server_can_be_released(own_redis: RedisServer) -> None:
    scene = Scene(own_redis, "")
    scene.send(*(b"%03d" % number for number in range(250)), due=time.time() + 1000)
    scene.link.call("CONFIG", "SET", "maxmemory", "1")
    assert scene.transport.release() == Released(delayed=250)
    assert len(scene.list()) == 250
