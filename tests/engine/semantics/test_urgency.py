"""9 is the most urgent on every broker, whatever its priorities mean."""

from __future__ import annotations

import uuid

from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
app = App("urgency", task_queue_max_priority=9, **SETTINGS)


@app.task
def one(name):
    note("ran", name)


@app.task(urgency=9)
def pressing(name):
    note("ran", name)
"""
WORKER = {"queues": ["elsewhere"]}
# The steps that Redis tells apart by default.
URGENCIES = (3, 9, 0, 6, 9, 3)


def test_what_is_most_urgent_is_reserved_first(fleet: Fleet) -> None:
    for number, urgency in enumerate(URGENCIES):
        fleet.task("one").apply_async((f"{urgency}-{number}",), urgency=urgency)
    fleet.task("pressing").delay("9-task")
    eventually(lambda: fleet.transport.ready(["celery"]) >= len(URGENCIES))
    with fleet.another_worker(queues=["celery"], concurrency=1):
        eventually(lambda: len(fleet.notes("ran")) == len(URGENCIES) + 1)
    expected = sorted((f"{u}-{n}" for n, u in enumerate(URGENCIES)), key=lambda name: (-int(name[0]), name))
    expected.insert(2, "9-task")
    assert fleet.notes("ran") == expected


def test_a_word_of_priority_stays_what_celery_takes_it_for(fleet: Fleet) -> None:
    queue = f"raw-{uuid.uuid4().hex}"
    for priority in (3, 9, 0, 6):
        fleet.task("one").apply_async((str(priority),), priority=priority, queue=queue)
    consumer = fleet.transport.consumer([queue], f"owner-{queue}", "tests")
    found: list[int] = []

    def all_came() -> bool:
        found.extend(one.priority for one in consumer.reserve(4))
        return len(found) == 4

    eventually(all_came)
    consumer.close()
    assert found == sorted(found, reverse=fleet.name != "redis")
