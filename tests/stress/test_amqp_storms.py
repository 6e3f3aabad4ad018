"""Children and whole workers killed on RabbitMQ: nothing is lost, and poison harms nobody (I1, I3, I11)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.exceptions import WorkerLostError
from support.amqp_stress import AmqpSite, arguments_of
from support.ledger import Kill, boot_ns
from support.rabbitmq_server import shared
from support.storms import storm
from support.stress_worker import QUEUE
from support.waiting import eventually

MESSAGES = 280
CHILD_KILLS = 25
WORKER_KILLS = 4
LEFT = 50
EVERY_S = (0.02, 0.06)
QUEUE_TYPES = ["classic", "quorum"]
# What a quorum queue drops after so few deliveries must still outlive every kill.
LIMITED = [{"name": QUEUE, "queue_arguments": {"x-queue-type": "quorum", "x-delivery-limit": 3}}]


@pytest.fixture(params=QUEUE_TYPES)
def amqp_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AmqpSite]:
    made = _site(tmp_path, request.param)
    yield made
    made.close()


def _site(root: Path, queue_type: str, **settings: Any) -> AmqpSite:
    if queue_type == "quorum":
        settings["task_queues"] = LIMITED
    return AmqpSite(root, shared(), task_default_queue_type=queue_type, **settings)


def child_storm(site: AmqpSite, dice: random.Random, messages: int, kills: int) -> None:
    for _ in range(messages):
        site.send("work", dice.uniform(0.005, 0.020))
    worker = site.worker(concurrency=3, task_max_crashes=1000, loglevel="WARNING").start()
    begun_s = time.monotonic()
    storm(site, dice, kills, left=LEFT, every_s=EVERY_S)
    site.finished(60.0)
    assert ("x-delivery-limit" in arguments_of(site)) == ("task_queues" in site.settings)
    site.empty()
    found = site.judged()
    print(f"{time.monotonic() - begun_s:.1f} s")
    assert found.clean, found
    assert found.hits >= 0.8 * len(site.kills)
    assert found.duplicates <= len(site.kills)
    assert len(site.kills) == kills
    assert worker.stats()["pid"] == worker.pid
    # The last ones may have had nothing in hand that was waited for.
    eventually(lambda: worker.stats()["causes"] == {"signal 9": kills})
    assert site.dead() == []
    assert worker.stop() == 0
    worker.gone()


def worker_storm(site: AmqpSite, dice: random.Random, messages: int, kills: int) -> None:
    for _ in range(messages):
        site.send("work", dice.uniform(0.005, 0.030))
    hits = 0
    for _ in range(kills):
        worker = site.worker(concurrency=2, task_max_crashes=1000).start()
        children = worker.children()
        time.sleep(dice.uniform(0.0, 0.3))  # the moment of the kill is what varies
        eventually(lambda own=children: set(site.ledger.read().running()) & set(own), deadline_s=10.0)
        hits += 1
        now_ns = boot_ns()
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        site.kills += [Kill(pid, now_ns) for pid in children]
        worker.gone(1.0)
    last = site.worker(concurrency=3, task_max_crashes=1000).start()
    site.finished(90.0)
    site.empty()
    found = site.judged(per_kill=None)
    print(f"kills of workers at work {hits}, which cut off {found.hits}")
    assert (found.lost, found.phantom, found.vanished) == ([], [], [])
    # A message that is to rest is sent anew before the old one is acknowledged: who dies in between has
    # doubled it. RabbitMQ can do no two things at once (the first gap of its capabilities).
    assert set(found.overlaps) <= set(found.unexplained)
    assert len(found.unexplained) <= kills
    assert hits == kills
    assert found.hits >= kills // 2
    assert site.dead() == []
    assert last.stop() == 0


def test_a_storm_of_child_kills_loses_nothing_and_explains_every_repetition(
    amqp_site: AmqpSite, dice: random.Random
) -> None:
    child_storm(amqp_site, dice, MESSAGES, CHILD_KILLS)


@pytest.mark.parametrize("amqp_site", ["quorum"], indirect=True)
def test_a_storm_of_worker_kills_loses_nothing_and_leaves_nobody(
    amqp_site: AmqpSite, dice: random.Random
) -> None:
    worker_storm(amqp_site, dice, 220, WORKER_KILLS)


def test_poison_is_bounded_and_no_good_message_is_charged(
    tmp_path: Path, dice: random.Random, request: pytest.FixtureRequest
) -> None:
    # No worker dies as a whole here, so its agent tells of each death, however long the machine lets it wait.
    site = _site(tmp_path, "quorum", broker_transport_options={"held_ttl": 30.0})
    request.addfinalizer(site.close)
    max_crashes = 3
    kinds = ["poison"] * 3 + ["work"] * 100
    dice.shuffle(kinds)
    poisons = set()
    for kind in kinds:
        if kind == "poison":
            poisons.add(site.send(kind))
        else:
            site.send(kind, dice.uniform(0.001, 0.01))
    good = [task_id for task_id in site.accepted if task_id not in poisons]
    workers = [site.worker(concurrency=1, task_max_crashes=max_crashes).launch() for _ in range(2)]
    site.finished(60.0, good)
    letters = eventually(
        lambda: found if len(found := site.dead()) == len(poisons) else None, deadline_s=30.0, every_s=0.2
    )
    runs = site.ledger.executions()
    starts = [run for run in runs if run.task_id in poisons]
    print(f"poison starts {len(starts)}, good starts {len(runs) - len(starts)}, dead {len(letters)}")
    # Nobody suspects the first start, which is on no record (docs/decisions/0013).
    assert len(starts) <= len(poisons) * (max_crashes + 1)
    assert len(runs) - len(starts) == len(good)
    assert {letter.reason for letter in letters} == {"crashes"}
    assert all("signal 9" in cause for letter in letters for cause in letter.causes)
    for task_id in poisons:
        assert isinstance(site.result(task_id), WorkerLostError)
    for worker in workers:
        assert worker.stop() == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_storms_at_full_size(amqp_site: AmqpSite, dice: random.Random) -> None:
    child_storm(amqp_site, dice, 3000, 200)
    worker_storm(amqp_site, dice, 1500, 20)
