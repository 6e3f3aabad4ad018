"""A slot of `max_concurrency` is held for as long as its task runs, not for as long as its batch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.transports.errors import BrokerUnavailable
from support.faulty import Faulty
from support.one_child import WORKER, OneChild

Make = Callable[..., OneChild]
SHORT_RUNS = 40


@pytest.mark.parametrize("key", [None, "tenant"])
def test_a_long_task_does_not_keep_the_slot_of_the_short_one_before(
    app: App, child_of: Make, key: str | None
) -> None:
    taken: list[bool] = []

    @app.task(max_concurrency=1, key=key)
    def narrow(tenant: str) -> None:
        """Short."""

    @app.task
    def report() -> None:
        taken.append(transport.take_slot(name, 1, "elsewhere", "elsewhere.1.1/1"))

    name = f"slots:{narrow.name}" + (":a" if key else "")
    transport: Any = app.client.transport
    child = child_of(app)
    for worker in (WORKER, "elsewhere"):
        child.parts.storage.transport.heartbeat(worker, 60)
    for _ in range(SHORT_RUNS):
        narrow.delay("a")
    child.run()
    narrow.delay("a")
    report.delay()
    child.run()
    assert taken == [True]


@pytest.mark.parametrize("key", [None, "tenant"])
def test_a_long_task_keeps_its_own_slot(app: App, child_of: Make, key: str | None) -> None:
    taken: list[bool] = []

    @app.task(max_concurrency=1, key=key)
    def narrow(tenant: str) -> None:
        taken.append(transport.take_slot(name, 1, "elsewhere", "elsewhere.1.1/1"))

    name = f"slots:{narrow.name}" + (":a" if key else "")
    transport: Any = app.client.transport
    child = child_of(app)
    for worker in (WORKER, "elsewhere"):
        child.parts.storage.transport.heartbeat(worker, 60)
    narrow.delay("a")
    child.run()
    assert taken == [False]


def test_an_outage_leaves_one_doubtful_slot_however_long_it_lasts(app: App, child_of: Make) -> None:
    ran: list[str] = []

    @app.task(max_concurrency=1)
    def narrow(tenant: str) -> None:
        ran.append(tenant)

    child = child_of(app)
    child.parts.storage.transport.heartbeat(WORKER, 60)
    child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
    sharing = child.parts.limiter._sharing
    coordinates = Faulty(child.parts.storage.transport)
    coordinates.fail("take_slot", 500, lambda: BrokerUnavailable("away", outcome_unknown=True), after=True)
    coordinates.fail("free_slot", 50, lambda: BrokerUnavailable("away", outcome_unknown=True))
    sharing._coordinates = coordinates  # type: ignore[assignment]
    narrow.delay("a")
    child.idle._before = lambda: not ran  # type: ignore[func-returns-value]
    child.run()
    assert ran == ["a"]
    assert len(sharing.late) <= 1
    # Each attempt was in the name of the same holder, who had the slot all the time.
    assert sharing._number == 1
