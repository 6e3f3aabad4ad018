"""The duties of a worker towards its broker."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import housekeeping
from prefork.engine.app import App
from prefork.engine.housekeeping import Housekeeping
from prefork.transports.base import Outgoing, Recovery
from prefork.transports.memory import MemoryTransport
from support.apps import memory_app
from support.faulty import Faulty
from support.set_clock import SetClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    made = SetClock()
    monkeypatch.setattr(housekeeping, "mono_s", made)
    monkeypatch.setattr(housekeeping, "wall_s", made)
    return made


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        yield made


@pytest.fixture
def standing(clock: SetClock) -> MemoryTransport:
    """A broker whose time passes only when the test says so."""
    return MemoryTransport(f"housekeeping-{uuid.uuid4().hex}", wall=clock, mono=clock)


def keeping(transport: Any, **events: Any) -> Housekeeping:
    given: dict[str, Any] = {
        "lease_s": 15.0,
        "renew_s": 5.0,
        "on_renewed": lambda: None,
        "on_promoted": lambda: None,
        "on_lapsed": lambda recovery: None,
    }
    log = logging.getLogger("test.housekeeping")
    return Housekeeping(transport, "worker", max_crashes=3, log=log, **(given | events))


def test_every_duty_is_done_at_once_and_then_in_its_time(app: App, clock: SetClock) -> None:
    transport = Faulty(app.client.transport)
    keeper = keeping(transport)
    names = ("heartbeat", "promote", "recover_lapsed", "maintain")
    keeper.turn()
    assert [transport.calls[name] for name in names] == [1, 1, 1, 1]
    assert 0 < keeper.turn() <= 0.25
    assert [transport.calls[name] for name in names] == [1, 1, 1, 1]
    for _ in range(100):
        clock.now_s += 0.25
        keeper.turn()
    heartbeats, promotions, lapses, maintenances = (transport.calls[name] for name in names)
    assert heartbeats >= 1 + 25 // 5
    assert promotions == 101
    assert lapses >= 25 // 5
    assert maintenances >= 1 + 25 // 10


def test_a_broker_that_is_away_is_said_once_and_so_is_its_return(
    app: App, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    transport = Faulty(app.client.transport)
    keeper = keeping(transport)
    transport.fail("heartbeat", 3)
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            keeper.turn()
            clock.now_s += 5
    said = [record.getMessage() for record in caplog.records]
    assert sum("trying again" in text for text in said) == 1
    assert sum("works again after 3 failures" in text for text in said) == 1


def test_what_is_due_soon_is_promoted_when_it_is_due(standing: MemoryTransport, clock: SetClock) -> None:
    promoted: list[int] = []
    standing.send([Outgoing("celery", b"later", 0, clock() + 0.05)])
    keeper = keeping(standing, on_promoted=lambda: promoted.append(standing.depth("celery").ready))
    pause_s = keeper.turn()
    assert 0 < pause_s <= 0.05
    assert promoted == [0]
    clock.now_s += pause_s
    keeper.turn()
    assert promoted == [0, 1]


def test_messages_of_a_vanished_worker_are_taken_over(app: App, clock: SetClock) -> None:
    transport = app.client.transport
    transport.send([Outgoing("celery", b"document")])
    transport.consumer(["celery"], "gone.0.1", "gone").reserve(1)
    transport.heartbeat("gone", 0.0)
    seen: list[Recovery] = []
    keeping(transport, on_lapsed=seen.append).turn()
    assert seen[0].suspects == 1


def test_what_maintenance_finds_is_said(app: App, clock: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    transport = Faulty(app.client.transport)
    transport.maintain = lambda: ["a foreign object was set aside"]  # type: ignore[attr-defined]
    keeping(transport).turn()
    assert "a foreign object" in caplog.text


def test_a_broker_that_tells_is_asked_for_due_messages_when_it_did(app: App, clock: SetClock) -> None:
    transport = Faulty(app.client.transport)
    keeper = keeping(transport, told=True)
    for _ in range(100):
        keeper.turn()
        clock.now_s += 0.1
    assert transport.calls["promote"] == 1
    keeper.look_at_schedule()
    for _ in range(20):
        keeper.look_at_schedule()
        keeper.turn()
        clock.now_s += 0.05
    assert 4 <= transport.calls["promote"] <= 6


def test_a_broker_that_tells_is_asked_when_the_next_message_is_due(
    standing: MemoryTransport, clock: SetClock
) -> None:
    transport = Faulty(standing)
    transport.send([Outgoing("celery", b"later", 0, clock() + 3.0)])
    keeper = keeping(transport, told=True)
    keeper.turn()
    clock.now_s += 2.5
    keeper.turn()
    assert transport.calls["promote"] == 1
    clock.now_s += 0.6
    keeper.turn()
    assert transport.calls["promote"] == 2


def test_the_lease_is_renewed_between_duties_that_wait_for_others(app: App, clock: SetClock) -> None:
    """A result store that does not answer must not make this worker count as lost."""
    renewed: list[float] = []
    keeper = keeping(app.client.transport, on_renewed=lambda: renewed.append(clock()))

    def wait() -> None:
        clock.now_s += 8.0

    keeper.duties += [housekeeping.Duty(name, 0.25, wait) for name in ("results", "revocations", "state")]
    for _ in range(5):
        keeper.turn()
    gaps = [later - earlier for earlier, later in zip(renewed, renewed[1:])]
    assert len(gaps) >= 10
    assert max(gaps) <= 8.0


def test_no_duty_follows_a_lease_that_cannot_be_renewed(app: App, clock: SetClock) -> None:
    transport = Faulty(app.client.transport)
    keeper = keeping(transport)
    done: list[str] = []

    def wait() -> None:
        done.append("waited")
        clock.now_s += 8.0

    keeper.duties += [
        housekeeping.Duty("results", 0.25, wait),
        housekeeping.Duty("state", 0.25, lambda: done.append("state")),
    ]
    keeper.turn()
    done.clear()
    transport.fail("heartbeat", 10)
    clock.now_s += 5.0
    keeper.turn()
    assert done == []
