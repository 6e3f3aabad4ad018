"""Broadcasts: every worker gets its own copy, with the guarantees of other messages once received."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from kombu import Connection, Exchange, Producer

from prefork.transports.base import Consumer, Outgoing, QueueDeclaration, Verdict, Watch
from prefork.transports.base import Outcome as Settled
from prefork.transports.redis import open_transport
from prefork.transports.redis.transport import RedisTransport
from support.redis_server import RedisServer, running_redis
from support.waiting import eventually, readable

DECLARED = {
    "all": QueueDeclaration("all", exchange="news", exchange_type="fanout"),
    "sport": QueueDeclaration("sport", exchange="keyed", exchange_type="fanout", routing_key="sport.#"),
}


class Worker:
    """The agent and one child of a worker."""

    def __init__(self, transport: RedisTransport, name: str) -> None:
        self.name = name
        self.transport = transport
        transport.heartbeat(name, 30.0)
        self.watch: Watch = transport.watch(["plain", "all", "sport"])
        self.child: Consumer = transport.consumer(["plain", "all", "sport"], f"{name}.1", name)

    def received(self) -> list[bytes]:
        """What the child reserves next."""

        def attempt() -> list[bytes]:
            if readable(self.watch.fileno(), 0.05):
                self.watch.drain()
            found = self.child.reserve(10)
            self.child.settle([Settled(one.tag) for one in found])
            return [one.document for one in found]

        return eventually(attempt)


Open = Callable[[str], Worker]


@pytest.fixture
def start(shared_redis: RedisServer, prefix: str) -> Iterator[Open]:
    opened: list[RedisTransport] = []

    def worker(name: str) -> Worker:
        transport = open_transport(shared_redis.url, {"global_keyprefix": prefix, "declarations": DECLARED})
        opened.append(transport)
        return Worker(transport, name)

    yield worker
    for transport in opened:
        transport.close()


def news(document: bytes = b"m") -> Outgoing:
    return Outgoing("all", document, exchange="news")


def test_every_worker_gets_a_copy(start: Open) -> None:
    one, two = start("one"), start("two")
    one.transport.send([news(b"first")])
    assert one.received() == [b"first"] and two.received() == [b"first"]
    two.transport.send([news(b"second")])
    two.transport.send([news(b"third")])
    for worker in (one, two):
        got: list[bytes] = []
        while len(got) < 2:
            got += worker.received()
        assert got == [b"second", b"third"]


def test_a_copy_belongs_to_the_worker_and_not_to_a_child(start: Open) -> None:
    one = start("one")
    sibling = one.transport.consumer(["all"], "one.2", "one")
    one.transport.send([news()])
    assert readable(one.watch.fileno())
    one.watch.drain()
    assert len(sibling.reserve(10)) == 1
    assert one.child.reserve(10) == []


def test_a_received_broadcast_survives_its_child(start: Open) -> None:
    one = start("one")
    one.transport.send([news()])
    assert readable(one.watch.fileno())
    one.watch.drain()
    (taken,) = one.child.reserve(10)
    one.transport.recover("one.1", running=taken.tag, cause="signal 9")
    again = one.transport.consumer(["all"], "one.3", "one")
    (found,) = again.reserve(10)
    assert (found.document, found.crashes) == (b"m", 1)
    assert again.settle([Settled(found.tag, Verdict.DEFER, due_wall_s=0.0)]) == [True]
    assert len(again.reserve(10)) == 1


def test_the_copies_of_a_worker_that_vanished_go_with_it(
    start: Open, shared_redis: RedisServer, prefix: str
) -> None:
    one, two = start("one"), start("two")
    one.transport.send([news(b"m"), news(b"n")])
    for worker in (one, two):
        assert readable(worker.watch.fileno())
        worker.watch.drain()
    assert len(one.child.reserve(1)) == 1
    one.transport.heartbeat("one", 0.001)
    eventually(lambda: two.transport.recover_lapsed().suspects)
    left = shared_redis.cli("KEYS", f"{prefix}*fanout:one*")
    assert left.strip() == "", "neither what it held nor what it had not taken"
    assert shared_redis.cli("SCARD", f"{prefix}prefork:marked").strip() == "0"
    assert len(two.child.reserve(10)) == 2


@pytest.mark.parametrize(("key", "hears"), [("sport.eu", True), ("weather", False)])
def test_a_pattern_of_keys_is_heard_as_kombu_publishes_it(
    start: Open, shared_redis: RedisServer, prefix: str, key: str, hears: bool
) -> None:
    one = start("one")
    with (
        Connection(shared_redis.url, transport_options={"global_keyprefix": prefix}) as connection,
        connection.channel() as channel,
    ):
        exchange = Exchange("keyed", "fanout")
        Producer(channel).publish({"n": 1}, exchange=exchange, routing_key=key, declare=[exchange])
    assert readable(one.watch.fileno(), 2.0 if hears else 0.1) == hears
    one.watch.drain()
    assert len(one.child.reserve(10)) == hears


def test_what_a_client_put_into_the_list_of_a_broadcast_queue_runs_once(start: Open) -> None:
    one, two = start("one"), start("two")
    two.transport.send([Outgoing("all", b"not published")])
    assert one.received() == [b"not published"]
    assert two.child.reserve(10) == []


def test_kombu_finds_the_binding(start: Open, shared_redis: RedisServer, prefix: str) -> None:
    start("one")
    members = shared_redis.cli("SMEMBERS", f"{prefix}_kombu.binding.news")
    assert members.endswith("all")


def test_a_worker_that_leaves_leaves_nothing(start: Open, shared_redis: RedisServer, prefix: str) -> None:
    one = start("one")
    one.transport.send([news()])
    assert readable(one.watch.fileno())
    one.watch.drain()
    one.child.close()
    one.transport.unregister("one")
    assert "fanout" not in shared_redis.cli("KEYS", f"{prefix}*")
    assert one.transport.queues() == ["all", "plain", "sport"]


def test_broadcasts_go_on_after_the_connection_was_lost(own_redis: RedisServer) -> None:
    transport = open_transport(own_redis.url, {"declarations": DECLARED})
    one = Worker(transport, "one")
    own_redis.cli("CLIENT", "KILL", "TYPE", "pubsub")
    assert readable(one.watch.fileno())
    one.watch.drain()
    eventually(lambda: (one.watch.drain(), own_redis.cli("PUBSUB", "NUMPAT") == "2")[1])
    transport.send([news(b"again")])
    assert one.received() == [b"again"]
    transport.close()


def test_a_refused_subscription_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with running_redis(users=["worker on >word ~* +@all resetchannels"]) as server:
        url = server.url_of(0, user="worker", password="word")
        transport = open_transport(url, {"declarations": DECLARED})
        one = Worker(transport, "one")
        assert "refused PSUBSCRIBE" in caplog.text
        transport.send([Outgoing("plain", b"m")])
        assert one.received() == [b"m"]
        transport.close()


def test_a_broadcast_that_cannot_be_kept_is_said(
    start: Open, shared_redis: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = start("one")
    shared_redis.cli("SET", f"{prefix}prefork:fanout:one:all", "mine")
    one.transport.send([news(json.dumps({}).encode())])
    assert readable(one.watch.fileno())
    one.watch.drain()
    assert "broadcasts are lost" in caplog.text and "news" in caplog.text
    caplog.clear()
    one.transport.send([news(json.dumps({}).encode())])
    assert readable(one.watch.fileno())
    one.watch.drain()
    assert not caplog.records, "one line, and not one for each"
