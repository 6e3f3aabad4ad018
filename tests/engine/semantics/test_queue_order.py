"""Between queues: by weights, so that none starves, or strictly in order. Between priorities: fairly."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.transports.base import Depth
from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
app = App("order", task_queue_max_priority=9, **SETTINGS)


@app.task
def one(ledger, name):
    note(ledger, name)


@app.task
async def waits(ledger, name):
    import asyncio

    await asyncio.sleep(0.02)
    note(ledger, name)
"""
# Each test starts the worker that it needs, which stays until the next one: queues are of one test alone.
WORKER = {"queues": ["elsewhere"]}


def ran(fleet: Fleet, sent: list[tuple[str, int]], **settings: Any) -> list[str]:
    """What one child runs, in order, of messages that all wait before it comes: queue and priority."""
    ledger = fleet.unique("ledger")
    queues = list(dict.fromkeys(queue for queue, _ in sent))
    names = {queue: f"{ledger}-{queue}" for queue in queues}
    for queue, priority in sent:
        fleet.task("one").apply_async((ledger, f"{queue} {priority}"), queue=names[queue], priority=priority)
    eventually(lambda: all(fleet.transport.ready([name]) for name in names.values()))
    weights = {names[queue]: weight for queue, weight in settings.pop("weights", {}).items()}
    fleet.restart(
        queues=list(names.values()),
        concurrency=1,
        worker_prefetch_multiplier=1,
        worker_queue_weights=weights,
        **settings,
    )
    eventually(lambda: len(fleet.notes(ledger)) == len(sent), deadline_s=20)
    return fleet.notes(ledger)


def test_weights_are_shares_while_all_queues_have_messages(fleet: Fleet) -> None:
    order = ran(fleet, [("high", 0)] * 24 + [("low", 0)] * 24, weights={"high": 3})
    for begin in range(28):
        assert order[begin : begin + 4].count("low 0") == 1, order
    assert order[-16:] == ["low 0"] * 16


def test_strictly_in_order_whatever_the_priority(fleet: Fleet) -> None:
    best = 9 if fleet.capabilities.highest_priority_first else 0
    worst = 9 - best
    order = ran(fleet, [("first", worst)] * 6 + [("second", best)] * 6, worker_queue_order="strict")
    assert order == [f"first {worst}"] * 6 + [f"second {best}"] * 6


@pytest.mark.needs("rotates")
def test_every_so_many_messages_another_priority_has_its_turn(fleet: Fleet) -> None:
    best = 9 if fleet.capabilities.highest_priority_first else 0
    worst = 9 - best
    sent = [("one", worst)] * 6 + [("one", best)] * 24
    order = ran(fleet, sent, worker_priority_fairness=4)
    for begin in range(21):
        assert order[begin : begin + 4].count(f"one {worst}") == 1, order
    assert ran(fleet, sent) == [f"one {best}"] * 24 + [f"one {worst}"] * 6


def test_a_worker_with_weights_that_idles_takes_what_comes_to_any_of_its_queues(fleet: Fleet) -> None:
    ledger = fleet.unique("ledger")
    high, low = fleet.unique("high"), fleet.unique("low")
    fleet.restart(queues=[high, low], worker_queue_weights={high: 5})
    for number in range(1, 7):
        fleet.task("one").apply_async((ledger, "ran"), queue=low if number % 3 else high)
        eventually(lambda wanted=number: len(fleet.notes(ledger)) == wanted)  # type: ignore[misc]


def test_queues_with_weights_feed_tasks_that_run_side_by_side(fleet: Fleet) -> None:
    ledger = fleet.unique("ledger")
    high, low = fleet.unique("high"), fleet.unique("low")
    expected = []
    for number in range(20):
        for queue in (high, low):
            name = f"{queue} {number}"
            fleet.task("waits").apply_async((ledger, name), queue=queue)
            expected.append(name)
    fleet.restart(
        queues=[high, low], concurrency=1, worker_async_concurrency=4, worker_queue_weights={high: 3}
    )
    eventually(lambda: len(fleet.notes(ledger)) >= len(expected))
    eventually(lambda: all(fleet.depth(queue) == Depth(0, 0, 0) for queue in (high, low)))
    ran = fleet.notes(ledger)
    assert sorted(ran) == sorted(expected)
    first = ran[:20]
    assert 12 <= sum(name.startswith(high) for name in first) <= 18, ran
