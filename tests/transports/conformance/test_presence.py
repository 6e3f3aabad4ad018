"""Conformance: who works on the messages of a broker. See `transports.presence`."""

from __future__ import annotations

import pytest

from prefork.transports.base import Transport
from prefork.transports.presence import KnowsWorkers
from support.waiting import eventually

from .conftest import Broker

pytestmark = [pytest.mark.needs("leases"), pytest.mark.needs("knows_workers")]

LONG_S = 600.0


def known(transport: Transport, *names: str) -> list[str]:
    """Those of these workers that the broker knows."""
    assert isinstance(transport, KnowsWorkers)
    found = transport.workers()
    assert found == sorted(found)
    return [name for name in names if name in found]


def test_those_with_a_lease_that_goes_on_are_known_to_everybody(broker: Broker, transport: Transport) -> None:
    one, other, nobody = (broker.unique(name) for name in ("one", "other", "nobody"))
    broker.open().heartbeat(one, LONG_S)
    broker.open().heartbeat(other, LONG_S)
    assert known(transport, one, other, nobody) == [one, other]
    transport.unregister(one)
    assert known(transport, one, other) == [other]


def test_whoever_may_hold_messages_is_known_before_the_first_heartbeat(
    broker: Broker, transport: Transport, queue: str
) -> None:
    worker = broker.unique("worker")
    consumer = broker.open().consumer([queue], f"{worker}.1.1", worker)
    consumer.reserve(1)
    assert known(transport, worker) == [worker]
    consumer.close()


def test_a_worker_whose_lease_has_run_out_is_not_known(broker: Broker, transport: Transport) -> None:
    worker = broker.unique("worker")
    transport.heartbeat(worker, LONG_S)
    transport.heartbeat(worker, 0.05)
    assert eventually(lambda: known(transport, worker) == [])
