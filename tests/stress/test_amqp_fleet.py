"""Workers and clients of both makes on the queues of one RabbitMQ: nothing lost, nothing early (I29)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fleet_app import MAKES
from support.ledger import check
from support.mixed_fleet import MixedFleet
from support.rabbitmq_server import shared

Make = Callable[..., MixedFleet]
ROUNDS = 2
PER_ROUND = 60
COUNTDOWNS_S = (0.2, 1.5, 3.0)
LATE_S = 4.0


@pytest.fixture
def fleet_of(tmp_path: Path) -> Iterator[Make]:
    """Makes a fleet on a virtual host of its own."""
    made: list[MixedFleet] = []

    def make(**settings: Any) -> MixedFleet:
        usual = {
            "broker_url": shared().vhost_url(),
            "result_backend": None,
            "task_ignore_result": True,
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
        }
        made.append(MixedFleet(tmp_path, {**usual, **settings}, {"task_max_crashes": 1000}))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


def storm(fleet: MixedFleet, dice: random.Random, rounds: int, per_round: int) -> None:
    """Kill a worker of each make in turn, under load, and start it again; judge what ran."""
    hits = 0
    for number in range(rounds):
        make = MAKES[number % 2]
        for one in range(per_round):
            options: dict[str, Any] = {"countdown": dice.uniform(0.0, 2.0)} if one % 10 == 0 else {}
            fleet.send(MAKES[one % 2], dice.uniform(0.010, 0.040), **options)
        hits += fleet.kill_at_work(make)
        fleet.workers[make].launch().await_ready()
    fleet.finished()
    found = check(fleet.accepted, fleet.ledger.executions(), fleet.kills, per_kill=None)
    print(f"{found}; kills of workers {rounds}, of which {hits} at work")
    assert (found.lost, found.phantom, found.vanished) == ([], [], [])
    # Who dies between sending anew and acknowledging has doubled a message, on RabbitMQ.
    assert len(found.unexplained) <= rounds
    assert hits == rounds


def test_a_mixed_fleet_whose_workers_are_killed_in_turn_loses_nothing(
    fleet_of: Make, dice: random.Random
) -> None:
    fleet = fleet_of(task_default_queue_type="quorum", broker_native_delayed_delivery_queue_type="classic")
    for make in MAKES:
        fleet.launch(make)
    fleet.await_ready()
    storm(fleet, dice, ROUNDS, PER_ROUND)


def typed(fleet_of: Make, queue_type: str) -> MixedFleet:
    """With queues of one type; Celery uses the broker's ladder for quorum queues behind topics alone."""
    exchange_type = "topic" if queue_type == "quorum" else "direct"
    return fleet_of(
        task_default_queue_type=queue_type,
        task_default_exchange_type=exchange_type,
        task_create_missing_queue_type=queue_type,
        task_create_missing_queue_exchange_type=exchange_type,
    )


def delayed(fleet: MixedFleet, countdowns_s: tuple[float, ...]) -> None:
    """Each client delays for the worker of each make; all run, none early, none much too late."""
    due_ns: dict[str, tuple[str, float, int]] = {}
    native = fleet.settings["task_default_queue_type"] == "quorum"
    for make in MAKES:
        fleet.launch(make, "-Q", f"for.{make}")
    fleet.await_ready()
    for client in MAKES:
        for make in MAKES:
            for countdown_s in countdowns_s:
                if native and client == "celery" and countdown_s < 1.0:
                    continue  # its own arithmetic of the ladder refuses less than a second
                task_id = fleet.send(client, 0.0, countdown=countdown_s, queue=f"for.{make}")
                due = fleet.sent_ns[task_id] + int(countdown_s * 1e9)
                due_ns[task_id] = (f"{client} for {make}", countdown_s, due)
    fleet.finished(within_s=max(countdowns_s) + 15.0)
    late_s = {}
    for run in fleet.ledger.executions():
        way, countdown_s, due = due_ns.pop(run.task_id)  # each runs once
        late_s[way, countdown_s] = (run.start_ns - due) / 1e9
    print({f"{way}, {countdown_s} s": f"{late:+.3f}" for (way, countdown_s), late in late_s.items()})
    assert due_ns == {}
    assert min(late_s.values()) >= 0
    assert max(late_s.values()) < LATE_S


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_countdowns_of_both_clients_are_kept_by_the_workers_of_both(fleet_of: Make, queue_type: str) -> None:
    delayed(typed(fleet_of, queue_type), COUNTDOWNS_S)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_countdown_of_more_than_a_minute_is_kept_as_well(fleet_of: Make, queue_type: str) -> None:
    delayed(typed(fleet_of, queue_type), (*COUNTDOWNS_S, 70.0))


def test_a_delayed_message_runs_once_beside_a_worker_of_celery_with_exchanges_of_every_type(
    fleet_of: Make,
) -> None:
    fleet = fleet_of(
        task_queues=[
            ("celery", "celery", "direct", "celery"),
            ("q1", "q1", "topic", "q1", {"x-queue-type": "quorum"}),  # so Celery uses its ladder
            ("events", "events", "fanout", "celery"),
            ("audit", "audit", "topic", "celery"),
            ("all", "all", "topic", "#"),
        ],
        broker_native_delayed_delivery_queue_type="classic",
    )
    for make in MAKES:
        fleet.launch(make)
    fleet.await_ready()
    sent = [fleet.send("prefork", 0.0, countdown=countdown_s) for countdown_s in (0.3, 1.2, 2.0, 3.1)]
    last = fleet.send("prefork", 0.0, countdown=6.0)
    fleet.finished()
    runs = [run.task_id for run in fleet.ledger.executions()]
    assert sorted(runs) == sorted([*sent, last])


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_mixed_fleet_at_full_size(fleet_of: Make, dice: random.Random) -> None:
    fleet = fleet_of(task_default_queue_type="quorum")
    for make in MAKES:
        fleet.launch(make, concurrency=2)
    fleet.await_ready()
    storm(fleet, dice, 20, 200)
