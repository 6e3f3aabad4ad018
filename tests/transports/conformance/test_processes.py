"""Conformance: several processes on one broker. Every test needs the capability ``several_processes``."""

from __future__ import annotations

import os
import signal

import pytest

from prefork.transports.base import Outcome, Outgoing, StoredResult, Transport
from support.forked import in_child
from support.waiting import Background, eventually, readable

from .conftest import Broker

pytestmark = pytest.mark.needs("several_processes")


def test_a_message_sent_by_another_process_arrives(broker: Broker, transport: Transport, queue: str) -> None:
    watch = transport.watch([queue])
    watch.drain()
    in_child(lambda: broker.open().send([Outgoing(queue, b"from the child")]))
    assert readable(watch.fileno())
    (held,) = broker.consumer(transport, [queue]).reserve(1, timeout_s=5.0)
    assert held.document == b"from the child"


@pytest.mark.needs("forks_while_used")
def test_a_waiting_process_is_woken_by_another(broker: Broker, transport: Transport, queue: str) -> None:
    waiting = Background(lambda: broker.consumer(transport, [queue]).reserve(1, timeout_s=10.0))
    in_child(lambda: broker.open().send([Outgoing(queue, b"m")]))
    assert [one.document for one in waiting.result(5.0)] == [b"m"]


@pytest.mark.needs("results")
def test_a_result_of_another_process_ends_the_wait(broker: Broker) -> None:
    key = broker.unique("task")
    store = broker.results()
    waiting = Background(lambda: store.wait([key], 10.0))
    in_child(lambda: broker.results().store([StoredResult(key, b'{"status": "SUCCESS"}')]))
    assert waiting.result(5.0) == {key: b'{"status": "SUCCESS"}'}


@pytest.mark.needs("counts_in_work", "places")
def test_what_a_killed_process_held_is_recovered_by_another(
    broker: Broker, transport: Transport, queue: str
) -> None:
    transport.send([Outgoing(queue, b"%d" % i) for i in range(4)])
    owner = broker.unique("killed")
    pid = os.fork()
    if pid == 0:
        try:
            consumer = broker.open().consumer([queue], owner, broker.unique("worker"))
            first, *_rest = consumer.reserve(3)
            consumer.settle([Outcome(first.tag, follow_ups=(Outgoing(queue, b"next"),))])
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    depth = transport.depth(queue)
    assert (depth.ready, depth.in_work) == (2, 2)
    assert transport.recover(owner).returned == 2
    received = [one.document for one in broker.consumer(transport, [queue]).reserve(10)]
    assert received == [b"1", b"2", b"3", b"next"]


@pytest.mark.needs("quick")
def test_processes_that_race_share_the_messages_without_loss_or_double(
    broker: Broker, transport: Transport, queue: str
) -> None:
    total = 300
    done = broker.unique("done")
    transport.send([Outgoing(queue, b"%d" % i, priority=i % 3) for i in range(total)])

    def work() -> None:
        consumer = broker.consumer(broker.open(), [queue], worker=f"w{os.getpid()}")
        while batch := consumer.reserve(8):
            outcomes = [Outcome(one.tag, follow_ups=(Outgoing(done, one.document),)) for one in batch]
            assert consumer.settle(outcomes) == [True] * len(outcomes)

    running = [Background(lambda: in_child(work, deadline_s=40.0)) for _ in range(3)]
    for one in running:
        one.result(60.0)
    listener = broker.consumer(transport, [done])
    received: list[bytes] = []

    def all_came() -> bool:
        received.extend(one.document for one in listener.reserve(64))
        return len(received) >= total

    eventually(all_came)
    assert sorted(received, key=int) == [b"%d" % i for i in range(total)]
