"""Fixtures of the conformance suites: one broker, as many handles on it as a test opens.

A test that needs a capability says so by ``@pytest.mark.needs("schedule")`` and runs against the
implementations that do not declare it as a gap. Queue names are unique to a test, so that a suite may
run against a broker that others use.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.base import Consumer, Delivery, Outgoing, ResultStore, Transport
from support.implementations import IMPLEMENTATIONS, RESULT_STORES, Implementation, private_redis, third_party
from support.rabbitmq_server import shared


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "implementation" not in metafunc.fixturenames:
        return
    needed = {name for mark in metafunc.definition.iter_markers("needs") for name in mark.args}
    if "store" in metafunc.fixturenames:
        needed.add("results")
    url = metafunc.config.getoption("--conformance-url")
    candidates = (third_party(url),) if url else IMPLEMENTATIONS
    if not url and metafunc.definition.get_closest_marker("result_stores"):
        candidates += RESULT_STORES if "transport" not in metafunc.fixturenames else ()
    chosen = [one for one in candidates if not needed & (one.gaps | one.limits)]
    metafunc.parametrize("implementation", chosen, ids=[one.name for one in chosen])


@pytest.fixture(scope="session", autouse=True)
def servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """The servers that brokers under test need, started before any test counts processes."""
    if request.config.getoption("--conformance-url"):
        yield
        return
    server = private_redis()
    if any(item.name.endswith("[amqp]") or "[amqp-" in item.name for item in request.session.items):
        shared()
    yield
    server.close()
    private_redis.cache_clear()


class Broker:
    """One broker under test and everything that the test opened on it."""

    def __init__(self, implementation: Implementation, root: Path) -> None:
        self.implementation = implementation
        self.url = implementation.url(root)
        self._salt = uuid.uuid4().hex[:12]
        self._opened: list[Any] = []

    def open(self) -> Transport:
        """A handle, such as another process would have."""
        transport = self.implementation.open_transport(self.url)
        self._opened.append(transport)
        return transport

    def results(self) -> ResultStore:
        """A handle on the result store beside the broker."""
        store = self.implementation.open_results(self.url)
        self._opened.append(store)
        return store

    def unique(self, name: str) -> str:
        """A name that no other test has; equal for equal arguments."""
        return f"{name}.{self._salt}"

    def consumer(
        self, transport: Transport, queues: Sequence[str], owner: str | None = None, worker: str = "worker"
    ) -> Consumer:
        """A consumer of these queues, for a new owner unless the test names one."""
        return transport.consumer(queues, owner or f"owner-{uuid.uuid4().hex}", self.unique(worker))

    def close(self) -> None:
        """Close everything, the latest first."""
        for handle in reversed(self._opened):
            handle.close()


@pytest.fixture
def broker(implementation: Implementation, broker_root: Path, no_leaks: None) -> Iterator[Broker]:
    broker = Broker(implementation, broker_root)
    yield broker
    broker.close()


@pytest.fixture
def transport(broker: Broker) -> Transport:
    return broker.open()


@pytest.fixture
def store(broker: Broker) -> ResultStore:
    return broker.results()


@pytest.fixture
def queue(broker: Broker) -> str:
    return broker.unique("queue")


@pytest.fixture
def consumer(broker: Broker, transport: Transport, queue: str) -> Consumer:
    return broker.consumer(transport, [queue])


@pytest.fixture
def send(transport: Transport, queue: str) -> Callable[..., None]:
    """Send documents to the queue of the test."""

    def _send(*documents: bytes, priority: int = 0, due_wall_s: float | None = None) -> None:
        transport.send([Outgoing(queue, document, priority, due_wall_s) for document in documents])

    return _send


@pytest.fixture
def take(consumer: Consumer) -> Callable[..., Delivery]:
    """Reserve one message from the queue of the test; it must be there within the deadline."""

    def _take(by: Consumer | None = None) -> Delivery:
        deliveries = (by or consumer).reserve(1, timeout_s=5.0)
        assert len(deliveries) == 1, deliveries
        return deliveries[0]

    return _take
