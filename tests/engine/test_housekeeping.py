from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from prefork.engine.clock import mono_s, wall_s
from prefork.engine.housekeeping import Duty, Housekeeping
from prefork.transports.base import Recovery
from prefork.transports.errors import BrokerUnavailable

LEASE_S = 60.0
RENEW_S = 20.0
FAR_S = 1e9


class FakeBroker:
    """What housekeeping asks of a transport; fails with `error` while there is one."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.error: Exception | None = None
        self.next_wall_s: float | None = None
        self.lines: list[str] = []
        self.recovery = Recovery(returned=2)

    def _call(self, *call: object) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def heartbeat(self, worker: str, lease_s: float) -> None:
        self._call("heartbeat", worker, lease_s)

    def promote(self) -> float | None:
        self._call("promote")
        return self.next_wall_s

    def recover_lapsed(self, *, max_crashes: int) -> Recovery:
        self._call("recover_lapsed", max_crashes)
        return self.recovery

    def maintain(self) -> list[str]:
        self._call("maintain")
        return self.lines


class World:
    """Housekeeping over a fake broker, and what it said and called."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.renewed = 0
        self.promoted = 0
        self.lapsed: list[Recovery] = []
        self.keeping = Housekeeping(
            self.broker,  # type: ignore[arg-type]
            "worker-1",
            lease_s=LEASE_S,
            renew_s=RENEW_S,
            max_crashes=3,
            log=logging.getLogger("test.housekeeping"),
            on_renewed=self._renewed,
            on_promoted=self._promoted,
            on_lapsed=self.lapsed.append,
        )

    def _renewed(self) -> None:
        self.renewed += 1

    def _promoted(self) -> None:
        self.promoted += 1

    def duty(self, name: str) -> Duty:
        """The duty of a name."""
        (found,) = (duty for duty in self.keeping.duties if duty.name == name)
        return found

    def only(self, name: str) -> Duty:
        """Make one duty due now and all others far away."""
        for duty in self.keeping.duties:
            duty.next_s = mono_s() + FAR_S
        found = self.duty(name)
        found.next_s = 0.0
        return found


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    with caplog.at_level(logging.INFO, "test.housekeeping"):
        yield World()


def test_everything_is_due_at_the_start(world: World) -> None:
    left_s = world.keeping.turn()
    assert world.broker.calls == [
        ("heartbeat", "worker-1", LEASE_S),
        ("promote",),
        ("recover_lapsed", 3),
        ("maintain",),
    ]
    assert (world.renewed, world.promoted, world.lapsed) == (1, 1, [Recovery(returned=2)])
    assert 0.0 <= left_s <= 0.25


def test_what_is_not_due_is_left_alone(world: World) -> None:
    world.only("maintenance").next_s = mono_s() + 50.0
    left_s = world.keeping.turn()
    assert world.broker.calls == []
    assert 0.0 < left_s <= 50.0


@pytest.mark.parametrize(
    ("name", "interval_s"),
    [("lease", RENEW_S), ("schedule", 0.25), ("lost workers", LEASE_S / 3), ("maintenance", 10.0)],
)
def test_each_duty_is_due_again_after_its_interval(world: World, name: str, interval_s: float) -> None:
    duty = world.only(name)
    before_s = mono_s()
    world.keeping.turn()
    assert before_s + interval_s <= duty.next_s <= mono_s() + interval_s
    assert len(world.broker.calls) == 1


def test_the_lease_is_renewed_on_demand_and_a_failure_is_the_callers(world: World) -> None:
    world.keeping.renew()
    assert (world.broker.calls, world.renewed) == ([("heartbeat", "worker-1", LEASE_S)], 1)
    world.broker.error = BrokerUnavailable("away")
    with pytest.raises(BrokerUnavailable):
        world.keeping.renew()
    assert world.renewed == 1


def test_a_failing_duty_is_logged_once_and_its_recovery_too(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.broker.error = BrokerUnavailable("no route")
    for _ in range(3):
        duty = world.only("lease")
        world.keeping.turn()
    assert duty.failures == 3
    assert world.renewed == 0
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "lease: no route; trying again every 20 s")
    ]
    caplog.clear()
    world.broker.error = None
    for _ in range(2):
        world.only("lease")
        world.keeping.turn()
    assert duty.failures == 0
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "lease: works again after 3 failures")
    ]


def test_a_failing_duty_waits_its_interval_and_does_not_stop_the_others(world: World) -> None:
    world.broker.error = BrokerUnavailable("away")
    before_s = mono_s()
    world.keeping.turn()
    assert len(world.broker.calls) == 4
    assert [duty.failures for duty in world.keeping.duties] == [1, 1, 1, 1]
    assert all(duty.next_s >= before_s + duty.interval_s for duty in world.keeping.duties)


def test_what_no_transport_raises_is_not_hidden(world: World) -> None:
    world.broker.error = ZeroDivisionError("a bug")
    world.only("maintenance")
    with pytest.raises(ZeroDivisionError):
        world.keeping.turn()


@pytest.mark.parametrize(("in_s", "at_most_s"), [(-5.0, 0.0), (0.1, 0.1), (3600.0, 0.25)])
def test_the_schedule_is_looked_at_when_the_next_message_is_due(
    world: World, in_s: float, at_most_s: float
) -> None:
    world.broker.next_wall_s = wall_s() + in_s
    duty = world.only("schedule")
    world.keeping.turn()
    assert world.promoted == 1
    assert duty.next_s <= mono_s() + at_most_s


def test_what_is_overdue_is_due_at_once(world: World) -> None:
    world.broker.next_wall_s = wall_s() - 5.0
    world.only("schedule")
    assert world.keeping.turn() == 0.0


def test_what_maintenance_found_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.broker.lines = ["segment 7 is damaged: 100%", "queue x was left alone"]
    world.only("maintenance")
    world.keeping.turn()
    assert [record.message for record in caplog.records] == world.broker.lines
