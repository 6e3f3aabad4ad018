"""What the memory transport has beside its ports: names, injected clocks, and the fork."""

from __future__ import annotations

import os
import uuid

import pytest

from prefork.transports.base import Consumer, Outcome, Outgoing, Recovery, StoredResult, Verdict, Watch
from prefork.transports.errors import BrokerUnavailable, OwnerLost, ResultStoreUnavailable
from prefork.transports.memory import MemoryResults, MemoryTransport, open_results, open_transport
from support.forked import in_child
from support.waiting import Background, readable

SUCCESS = b'{"status": "SUCCESS"}'


class Hands:
    """A clock that moves when a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Hands:
    return Hands()


@pytest.fixture
def mono() -> Hands:
    return Hands()


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def transport(name: str, wall: Hands, mono: Hands) -> MemoryTransport:
    return MemoryTransport(name, wall=wall, mono=mono)


def documents(consumer: Consumer, max_n: int = 100) -> list[bytes]:
    return [delivery.document for delivery in consumer.reserve(max_n)]


def test_equal_names_mean_one_broker_and_one_store(name: str) -> None:
    open_transport(f"memory://{name}", {}).send([Outgoing("q", b"m")])
    assert documents(open_transport(f"memory:///{name}", {}).consumer(["q"], "o", "w")) == [b"m"]
    open_results(f"memory://{name}", {}).store([StoredResult("k", SUCCESS)])
    assert MemoryResults(name).get(["k"]) == [SUCCESS]


def test_different_names_mean_different_brokers(name: str) -> None:
    MemoryTransport(name).send([Outgoing("q", b"m")])
    assert MemoryTransport(name.upper() + "x").depth("q").ready == 0


def test_a_broker_survives_its_handles(name: str) -> None:
    first = MemoryTransport(name)
    first.send([Outgoing("q", b"m")])
    first.close()
    assert MemoryTransport(name).depth("q").ready == 1


def test_a_message_is_due_to_the_instant(transport: MemoryTransport, wall: Hands) -> None:
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m", due_wall_s=1010.0)])
    assert transport.promote() == 1010.0
    wall.now_s = 1009.999
    assert transport.promote() == 1010.0
    assert documents(consumer) == []
    wall.now_s = 1010.0
    assert documents(consumer) == [b"m"]
    assert transport.promote() is None


def test_promoted_messages_queue_up_in_the_order_of_their_times(
    transport: MemoryTransport, wall: Hands
) -> None:
    for due_wall_s in (1003.0, 1001.0, 1002.0):
        transport.send([Outgoing("q", b"%d" % due_wall_s, due_wall_s=due_wall_s)])
    transport.send([Outgoing("q", b"ready before")])
    wall.now_s = 1005.0
    assert transport.promote(limit=2) == 1003.0
    consumer = transport.consumer(["q"], "o", "w")
    assert documents(consumer) == [b"ready before", b"1001", b"1002", b"1003"]


def test_a_lease_lapses_to_the_instant(transport: MemoryTransport, mono: Hands) -> None:
    consumer = transport.consumer(["q"], "o", "w")
    transport.heartbeat("w", 10.0)
    transport.send([Outgoing("q", b"m")])
    consumer.reserve(1)
    mono.now_s = 1009.999
    assert transport.recover_lapsed() == Recovery()
    mono.now_s = 1010.0
    assert transport.recover_lapsed() == Recovery(returned=1, suspects=1)
    with pytest.raises(OwnerLost, match="recovered"):
        consumer.reserve(1)


def test_the_first_lease_of_a_worker_is_an_option(name: str, mono: Hands) -> None:
    transport = MemoryTransport(name, mono=mono, lease_s=2.0)
    transport.consumer(["q"], "o", "w")
    mono.now_s += 2.0
    transport.recover_lapsed()
    assert transport.owners("w") == []
    assert open_transport(f"memory://{name}", {"lease_s": "3", "app": "ignored"}).queues() == ["q"]


def test_dead_letters_bear_the_date_of_the_clock(transport: MemoryTransport, wall: Hands) -> None:
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    wall.now_s = 1234.5
    (held,) = consumer.reserve(1)
    consumer.settle([Outcome(held.tag, Verdict.DEAD, reason="test")])
    (letter,) = transport.dead_letters()
    assert (letter.died_wall_s, letter.reason) == (1234.5, "test")


def test_the_causes_of_requeued_crashes_are_kept(transport: MemoryTransport) -> None:
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    (held,) = consumer.reserve(1)
    consumer.settle([Outcome(held.tag, Verdict.REQUEUE, crashed=True, causes=("memory limit",))])
    (held,) = consumer.reserve(1)
    recovery = transport.recover("o", running=held.tag, cause="signal 9", max_crashes=2)
    assert recovery.dead[0].causes == ("memory limit", "signal 9")


def test_results_expire_to_the_instant_and_are_dropped_by_housekeeping(
    name: str, transport: MemoryTransport, wall: Hands
) -> None:
    results = MemoryResults(name, wall=wall)
    results.store([StoredResult("k", SUCCESS, expires_s=10.0)])
    results.save_group("g", b"group", 10.0)
    wall.now_s = 1009.999
    assert results.get(["k"]) == [SUCCESS]
    assert results.expire() == 0
    wall.now_s = 1010.0
    assert (results.get(["k"]), results.get_group("g")) == ([None], None)
    assert results.expire(limit=1) == 1
    assert transport.maintain() == []
    assert results.expire() == 0


def test_a_watch_is_rung_at_once_when_there_is_work_already(transport: MemoryTransport) -> None:
    transport.send([Outgoing("q", b"m")])
    assert readable(transport.watch(["q"]).fileno(), 0.0)
    assert not readable(transport.watch(["other"]).fileno(), 0.0)


def test_a_watch_of_other_queues_stays_silent(transport: MemoryTransport) -> None:
    watch = transport.watch(["high"])
    transport.send([Outgoing("orders.high", b"m"), Outgoing("high", b"later", due_wall_s=9e9)])
    assert not readable(watch.fileno(), 0.0)
    watch.drain()
    transport.close()
    assert watch.fileno() == -1


def test_a_forked_child_gets_an_error_instead_of_a_copy(name: str) -> None:
    transport, results = MemoryTransport(name), MemoryResults(name)
    consumer = transport.consumer(["q"], "o", "w")
    watch = transport.watch(["q"])

    def child() -> None:
        for use in (
            lambda: transport.send([Outgoing("q", b"m")]),
            lambda: transport.depth("q"),
            lambda: transport.watch(["q"]),
            lambda: consumer.reserve(1),
            lambda: consumer.settle([]),
        ):
            with pytest.raises(BrokerUnavailable, match="filesystem://"):
                use()
        with pytest.raises(ResultStoreUnavailable, match=f"process {os.getppid()}"):
            results.get(["k"])
        consumer.close()
        watch.close()
        transport.close()

    in_child(child)
    transport.send([Outgoing("q", b"m")])
    assert readable(watch.fileno())
    assert documents(consumer) == [b"m"]


def test_a_forked_child_may_have_a_broker_of_its_own(name: str) -> None:
    MemoryTransport(name).send([Outgoing("q", b"of the parent")])

    def child() -> None:
        transport = MemoryTransport(name)
        assert transport.depth("q").ready == 0
        transport.send([Outgoing("q", b"of the child")])

    in_child(child)
    assert MemoryTransport(name).depth("q").ready == 1


def test_the_fork_does_not_hang_while_a_thread_waits_in_the_broker(name: str) -> None:
    transport = MemoryTransport(name)
    consumer = transport.consumer(["q"], "o", "w")
    waiting = Background(lambda: consumer.reserve(1, timeout_s=10.0))

    def child() -> None:
        with pytest.raises(BrokerUnavailable):
            transport.ready(["q"])

    in_child(child)
    transport.send([Outgoing("q", b"m")])
    assert len(waiting.result()) == 1


def test_the_handles_have_the_shape_of_their_ports(transport: MemoryTransport) -> None:
    assert isinstance(transport.consumer(["q"], "o", "w"), Consumer)
    assert isinstance(transport.attach("o"), Consumer)
    assert isinstance(transport.watch(["q"]), Watch)
    assert transport.capabilities.gaps == ()
