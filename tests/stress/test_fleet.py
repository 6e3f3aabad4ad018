"""One queue, workers and clients of both makes, killed in turn: nothing is lost (I29)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet_app import MAKES
from support.ledger import check
from support.mixed_fleet import MixedFleet
from support.redis_server import RedisServer, running_redis
from support.waiting import eventually

ROUNDS = 6
PER_ROUND = 200
VISIBILITY_S = 5.0
LEASE = {"worker_lease": 2.0, "worker_lease_renew_interval": 0.5}
DEADLINE_S = 60.0


def mixed_fleet(root: Path, server: RedisServer, visibility_s: float = VISIBILITY_S) -> MixedFleet:
    """A worker and a client of each make on the default queue of one server."""
    settings = {
        "broker_url": server.url,
        "result_backend": server.url,
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "broker_transport_options": {
            "visibility_timeout": visibility_s,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    }
    return MixedFleet(root, settings, LEASE, told=lambda: str(server.cli("KEYS", "*")))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


def storm(fleet: MixedFleet, dice: random.Random, rounds: int, per_round: int) -> int:
    """Kill a worker of each make in turn, under load, and start it again; returns how many hit a task."""
    hits = 0
    for number in range(rounds):
        make = MAKES[number % 2]
        for one in range(per_round):
            # None is delayed: a Celery worker that holds a delayed message takes others beyond its limit.
            fleet.send(MAKES[one % 2], dice.uniform(0.015, 0.040))
        hits += fleet.kill_at_work(make)
        fleet.workers[make].launch().await_ready()
    return hits


@pytest.mark.timeout(240)
def test_a_mixed_fleet_whose_workers_are_killed_in_turn_loses_nothing(
    tmp_path: Path, server: RedisServer, dice: random.Random
) -> None:
    fleet = mixed_fleet(tmp_path, server)
    try:
        for make in MAKES:
            fleet.launch(make)
        fleet.await_ready()
        hits = storm(fleet, dice, ROUNDS, PER_ROUND)
        fleet.finished()
        _judge(fleet, ROUNDS, hits)
    finally:
        fleet.close()


def _judge(fleet: MixedFleet, rounds: int, hits: int) -> None:
    # What was cut off at the end of the storm may be run again by whoever restores it.
    runs = fleet.ledger.executions()
    found = check(fleet.accepted, runs, fleet.kills, per_kill=None)
    print(f"{found}; kills of workers {rounds}, of which {hits} at work")
    assert found.clean, found
    assert hits == rounds


def test_what_prefork_holds_is_restored_by_no_celery_worker_however_long_it_takes(
    tmp_path: Path, server: RedisServer
) -> None:
    fleet = mixed_fleet(tmp_path, server, visibility_s=1.0)
    try:
        fleet.launch("prefork", concurrency=2)
        fleet.await_ready()
        begun_s = time.monotonic()
        long = [fleet.send(client, 8.0) for client in MAKES]
        eventually(lambda: len(fleet.ledger.executions()) == 2)
        fleet.launch("celery")
        fleet.await_ready()
        short = []
        while time.monotonic() - begun_s < 7.5:
            short += [fleet.send(client, 0.001) for client in MAKES]
            fleet.finished(short)
        fleet.finished(long)
        runs = fleet.ledger.executions()
        print(f"{len(short)} short tasks of the Celery worker beside 2 of 8 s, visibility timeout 1 s")
        assert len(runs) == len(fleet.accepted) == len(short) + 2
        assert "Restoring" not in fleet.workers["celery"].log
        eventually(lambda: server.cli("EXISTS", "unacked", "celery") == "0")
    finally:
        fleet.close()


def test_what_a_celery_worker_holds_is_taken_over_when_it_is_dead_and_not_before(
    tmp_path: Path, server: RedisServer
) -> None:
    visibility_s = 4.0
    fleet = mixed_fleet(tmp_path, server, visibility_s)
    try:
        fleet.launch("celery", concurrency=2)
        fleet.await_ready()
        alive = [fleet.send(client, 3.0) for client in MAKES]
        eventually(lambda: len(fleet.ledger.executions()) == 2)
        fleet.launch("prefork")
        fleet.await_ready()
        fleet.finished(alive)
        eventually(lambda: server.cli("EXISTS", "unacked") == "0")
        fleet.workers["prefork"].kill()
        held = fleet.send("celery", 60.0)
        [run] = eventually(lambda: [run for run in fleet.ledger.executions() if run.task_id == held])
        fleet.workers["celery"].kill()
        fleet.workers["prefork"].launch().await_ready()
        eventually(
            lambda: sum(run.task_id == held for run in fleet.ledger.executions()) == 2,
            deadline_s=visibility_s + 20.0,  # looked for every ten seconds
        )
        runs = fleet.ledger.executions()
        taken_s = (runs[-1].start_ns - run.start_ns) / 1e9
        print(f"taken over {taken_s:.1f} s after its start, visibility timeout {visibility_s} s")
        assert taken_s >= visibility_s - 0.1
        assert len(runs) == len(alive) + 2
    finally:
        fleet.close()


def test_what_one_make_retries_the_other_goes_on_with(tmp_path: Path, server: RedisServer) -> None:
    fleet = mixed_fleet(tmp_path, server)
    try:
        for make in MAKES:
            fleet.launch(make, concurrency=2)
        fleet.await_ready()
        # Each with a delay: Celery sends an attempt and stores RETRY of the one before it afterwards, so
        # one that starts at once may have its SUCCESS overwritten, by Celery's workers among themselves, too.
        results = [
            fleet.clients[MAKES[number % 2]].tasks["fleet.again"].delay(4, 0.1 + (number % 3) * 0.2)
            for number in range(60)
        ]
        assert [result.get(timeout=DEADLINE_S)[0] for result in results] == [4] * 60
        logs = {make: worker.log for make, worker in fleet.workers.items()}
        touched = {make: {r.id for r in results if r.id in log} for make, log in logs.items()}
        both = touched["celery"] & touched["prefork"]
        print(f"{len(both)} of {len(results)} tasks were taken up by both makes")
        assert len(both) >= 20
    finally:
        fleet.close()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_mixed_fleet_at_full_size(tmp_path: Path, server: RedisServer, dice: random.Random) -> None:
    fleet = mixed_fleet(tmp_path, server)
    try:
        # One process each: only so is it known at which moments a Celery worker holds all that it may.
        for make in MAKES:
            fleet.launch(make)
        fleet.await_ready()
        hits = storm(fleet, dice, 40, 100)
        fleet.finished(within_s=180.0)
        _judge(fleet, 40, hits)
    finally:
        fleet.close()
