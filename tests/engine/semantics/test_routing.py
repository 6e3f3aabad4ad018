"""Where a task goes: by call, task, map, pattern, function, exchange; to one worker; to all of them."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine.exceptions import QueueNotFound
from prefork.engine.routes import worker_direct
from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
import re

from kombu import Exchange, Queue
from kombu.common import Broadcast


def by_argument(name, args, kwargs, options, task=None, **_):
    if kwargs.get("tenant"):
        return {"queue": "tenants", "priority": 6, "headers": {"tenant": kwargs["tenant"]}}


class OfMedia:
    def route_for_task(self, task, args=None, kwargs=None):
        return "media" if task.startswith("media.") else None


app = App("routing", task_create_missing_queues=False, worker_direct=True, **SETTINGS)
app.conf.update(
    task_default_queue="usual",
    task_queues=[
        Queue("usual", Exchange("usual", type="direct"), routing_key="usual"),
        Queue("exact"), Queue("globbed"), Queue("matched"), Queue("tenants"), Queue("media"), Queue("own"),
        Queue("all-sport", Exchange("sport", type="topic"), routing_key="sport.#"),
        Queue("golf", Exchange("sport", type="topic"), routing_key="sport.golf"),
        Queue("one-of-fan", Exchange("fan", type="fanout")),
        Queue("other-of-fan", Exchange("fan", type="fanout")),
        Queue("keyed", Exchange("keyed", type="direct"), routing_key="the-key"),
        Broadcast("everybody"),
    ],
    task_routes=(
        by_argument,
        OfMedia(),
        {"routing.exact": "exact", "glob.*": {"queue": "globbed"}, re.compile(r"re\\.(a|b)$"): "matched"},
    ),
)


def where(ledger, **kwargs):
    request = app.current_task.request
    note(ledger, f"{request.hostname} {request.delivery_info.get('priority')} {request.headers}")
    return request.hostname


for name in ("routing.exact", "glob.x", "re.a", "re.c", "media.image", "plain"):
    app.task(where, name=name)


@app.task(name="of.task", queue="own")
def of_task(ledger):
    return where(ledger)


@app.task(name="again", bind=True, max_retries=1)
def again(self, ledger):
    note(ledger, f"{self.request.hostname} {self.request.retries}")
    if not self.request.retries:
        raise self.retry(countdown=0)
"""
WORKER = {"queues": ["elsewhere"], "hostname": "idle@tests"}
QUEUES = "usual exact globbed matched tenants media own all-sport golf one-of-fan other-of-fan keyed".split()
FAN = ["one-of-fan", "other-of-fan"]


def send(fleet: Fleet, task: str, *, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    return fleet.app.send_task(task, (fleet.unique("ledger"),), kwargs, **options)


def counts(fleet: Fleet) -> dict[str, int]:
    ready = {name: fleet.transport.depth(name).ready for name in QUEUES}
    return {name: count for name, count in ready.items() if count}


@pytest.fixture(autouse=True)
def empty(fleet: Fleet) -> None:
    for name in QUEUES:
        fleet.transport.purge(name)


@pytest.mark.parametrize(
    ("task", "options", "queues"),
    [
        ("plain", {}, ["usual"]),
        ("routing.exact", {}, ["exact"]),
        ("glob.x", {}, ["globbed"]),
        ("re.a", {}, ["matched"]),
        ("re.c", {}, ["usual"]),
        ("media.image", {}, ["media"]),
        ("plain", {"kwargs": {"tenant": "acme"}}, ["tenants"]),
        ("routing.exact", {"queue": "own"}, ["own"]),
        ("plain", {"exchange": "keyed", "routing_key": "the-key"}, ["keyed"]),
        ("plain", {"exchange": "sport", "routing_key": "sport.golf"}, ["all-sport", "golf"]),
        ("plain", {"exchange": "sport", "routing_key": "sport.chess.blitz"}, ["all-sport"]),
        ("plain", {"queue": "keyed"}, ["keyed"]),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_a_call_reaches_its_queues(
    fleet: Fleet, task: str, options: dict[str, Any], queues: list[str]
) -> None:
    send(fleet, task, **options)
    expected = dict.fromkeys(queues, 1)
    eventually(lambda: counts(fleet) == expected)


@pytest.mark.parametrize("delay_s", [0, 0.2])
def test_a_fanout_exchange_reaches_all_that_are_bound_and_nobody_else(fleet: Fleet, delay_s: float) -> None:
    """On Redis it is published, as Celery does it, and reaches the workers that listen."""
    ledger = fleet.unique("ledger")
    with fleet.another_worker(queues=[*FAN, "usual"]):
        fleet.app.send_task("plain", (ledger,), exchange="fan", countdown=delay_s or None)
        fleet.app.send_task("again", (ledger,), queue="usual", countdown=delay_s or None)
        eventually(lambda: len(fleet.notes(ledger)) == 4)
    assert len(fleet.notes(ledger)) == 4


def test_the_tasks_own_queue_comes_before_routes(fleet: Fleet) -> None:
    fleet.task("of_task").delay(fleet.unique("ledger"))
    eventually(lambda: counts(fleet) == {"own": 1})


def test_what_a_route_says_besides_travels_with_the_message(fleet: Fleet) -> None:
    send(fleet, "plain", kwargs={"tenant": "acme"})
    eventually(lambda: counts(fleet) == {"tenants": 1})
    (message,) = fleet.waiting("tenants")
    assert message.priority == 6
    assert message.headers["tenant"] == "acme"


def test_unknown_queues_are_refused_when_none_may_be_made(fleet: Fleet) -> None:
    with pytest.raises(QueueNotFound, match="misspelt"):
        send(fleet, "plain", queue="misspelt")


def test_each_worker_has_a_queue_of_its_own(fleet: Fleet) -> None:
    with (
        fleet.another_worker(queues=["nothing"], hostname="one@tests"),
        fleet.another_worker(queues=["nothing"], hostname="two@tests"),
    ):
        for name in ("two@tests", "one@tests", "two@tests"):
            assert send(fleet, "plain", queue=worker_direct(name)).get(timeout=15) == name
        by_key = {"exchange": "C.dq2", "routing_key": "one@tests"}
        assert send(fleet, "plain", **by_key).get(timeout=15) == "one@tests"


@pytest.mark.parametrize("delay_s", [0, 0.2])
def test_every_worker_gets_a_copy_of_a_broadcast(fleet: Fleet, delay_s: float) -> None:
    ledger = fleet.unique("ledger")
    with (
        fleet.another_worker(queues=["everybody"], hostname="one@tests"),
        fleet.another_worker(queues=["everybody"], hostname="two@tests"),
    ):
        fleet.app.send_task("again", (ledger,), queue="everybody", countdown=delay_s or None)
        eventually(lambda: len(fleet.notes(ledger)) == 4)
    assert sorted(fleet.notes(ledger)) == ["one@tests 0", "one@tests 1", "two@tests 0", "two@tests 1"]


def test_a_broadcast_that_nobody_hears_is_no_error(fleet: Fleet) -> None:
    send(fleet, "plain", queue="everybody")
    send(fleet, "plain", queue="usual")
    eventually(lambda: counts(fleet) == {"usual": 1})
