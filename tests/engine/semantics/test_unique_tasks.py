"""Unique tasks through real workers: one of many calls is sent, and the lock goes when it should."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from prefork.engine import Unique, chain
from prefork.engine.exceptions import DuplicateTaskError, TaskRevokedError, TimeLimitExceeded
from prefork.engine.unique_locks import RUNNING_S
from prefork.engine.unique_purge import purge
from prefork.transports.coordination import Coordinates
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

WORKER = {"task_max_crashes": 2}
SOURCE = """
from prefork.engine import Unique

app = App("unique", **SETTINGS)

def held(key):
    note(key, f"{time.time()} {os.getpid()}")
    deadline = time.monotonic() + 15
    while not (ROOT / f"{key}.go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)

@app.task(unique=True)
def done(key, extra=0):
    held(key)
    return key

@app.task(unique=Unique(until="started"))
def started(key):
    held(key)

@app.task(unique=Unique(by="key", on_conflict="replace"))
def newest(key, value):
    held(key)
    return value

@app.task(unique=Unique(by="key", on_conflict="raise"))
def only(key):
    held(key)

@app.task(unique=True)
def fails(key):
    raise LookupError(key)

@app.task(bind=True, unique=True, max_retries=3)
def retries(self, key):
    note(key, str(self.request.retries))
    if self.request.retries < 2:
        raise self.retry(countdown=0.3)
    return key

@app.task(unique=True, acks_late=False)
def early(key):
    held(key)
    return key

@app.task(unique=True)
def dies(key):
    note(key, str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(unique=True, time_limit=0.5)
def too_long(key):
    note(key, str(os.getpid()))
    time.sleep(30)

@app.task(unique=Unique(ttl_s=1))
def brief(key):
    held(key)

@app.task(unique=lambda args, kwargs: args[0])
def keyed(key, extra=0):
    held(key)
    return extra

@app.task
def waits(key, how):
    held(key)
    return f"{key} {how}"

@app.task
def first_step(key):
    return key

@app.task(bind=True, unique=True)
def replaced(self, key, how):
    if how == "chain":
        return self.replace(first_step.s(key) | waits.s(how))
    if how == "itself" and self.request.replaced_task_nesting == 0:
        return self.replace(self.s(key, how))
    if how == "itself":
        return waits(key, how)
    return self.replace(waits.s(key, how))

@app.task(bind=True)
def hands_over(self, key):
    return self.replace(done.s(key))

@app.task
def plain(key, value=None):
    note(key, "ran")
    return key
"""


def key_of(fleet: Fleet) -> str:
    """A key whose tasks wait for `go`."""
    return fleet.unique("k")


def go(fleet: Fleet, key: str) -> None:
    (fleet.root / f"{key}.go").touch()


def begun(fleet: Fleet, key: str, count: int = 1) -> None:
    eventually(lambda: len(fleet.notes(key)) >= count, deadline_s=OUTSIDE_S, every_s=0.02)


def holder(fleet: Fleet, task: str, *args: Any, **kwargs: Any) -> str | None:
    return fleet.app.client.unique.holder(fleet.task(task).name, args, kwargs)


def test_a_second_call_returns_the_result_of_the_first_one(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("done").delay(key, 1)
    assert fleet.task("done").delay(key=key, extra=1).id == first.id
    begun(fleet, key)
    assert fleet.task("done").delay(key, 1).id == first.id, "it runs, and is not done"
    other = fleet.task("done").delay(key, 2)
    assert other.id != first.id
    go(fleet, key)
    assert first.get(timeout=OUTSIDE_S) == other.get(timeout=OUTSIDE_S) == key
    assert len(fleet.notes(key)) == 2
    eventually(lambda: holder(fleet, "done", key, 1) is None)
    again = fleet.task("done").delay(key, 1)
    assert again.id != first.id
    assert again.get(timeout=OUTSIDE_S) == key


def test_a_function_that_a_task_is_given_as_its_key_says_which_calls_are_the_same(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("keyed").delay(key, 1)
    assert fleet.task("keyed").delay(key, extra=2).id == first.id
    begun(fleet, key)
    assert holder(fleet, "keyed", key) == first.id
    go(fleet, key)
    assert first.get(timeout=OUTSIDE_S) == 1
    eventually(lambda: holder(fleet, "keyed", key) is None)
    assert fleet.task("keyed").delay(key, 3).get(timeout=OUTSIDE_S) == 3


def test_of_many_senders_at_once_one_sends(fleet: Fleet) -> None:
    key = key_of(fleet)
    with ThreadPoolExecutor(10) as pool:
        ids = set(pool.map(lambda _n: fleet.task("done").delay(key).id, range(50)))
    assert len(ids) == 1
    go(fleet, key)
    fleet.app.AsyncResult(ids.pop()).get(timeout=OUTSIDE_S)
    assert len(fleet.notes(key)) == 1


def test_until_it_has_started_the_next_call_waits_behind_the_one_that_runs(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("started").delay(key)
    begun(fleet, key)
    eventually(lambda: holder(fleet, "started", key) is None)
    other = key_of(fleet)
    if fleet.several_processes:  # the other child, too, has something else to do
        fleet.task("waits").delay(other, "beside")
        begun(fleet, other)
    second = fleet.task("started").delay(key)
    assert second.id != first.id
    assert fleet.task("started").delay(key).id == second.id
    go(fleet, key)
    go(fleet, other)
    second.get(timeout=OUTSIDE_S)
    assert len(fleet.notes(key)) == 2


def test_for_a_time_nothing_ends_it_but_the_time(fleet: Fleet) -> None:
    key = key_of(fleet)
    began_mono_s = time.monotonic()  # before the lock is: it cannot end within 1.5 s from here
    first = fleet.task("plain").apply_async((key,), unique=Unique(until=1.5))
    assert first.get(timeout=OUTSIDE_S) == key
    second = fleet.task("plain").apply_async((key,), unique=Unique(until=1.5))
    if time.monotonic() - began_mono_s < 1.5:
        assert second.id == first.id

    def another() -> bool:
        return bool(fleet.task("plain").apply_async((key,), unique=Unique(until=1.5)).id != first.id)

    eventually(another, every_s=0.1)
    assert time.monotonic() - began_mono_s > 1.2


def test_a_newer_call_takes_the_place_of_one_that_has_not_started(fleet: Fleet) -> None:
    key = key_of(fleet)
    go(fleet, key)
    first = fleet.task("newest").apply_async((key, 1), countdown=2.5)
    second = fleet.task("newest").apply_async((key, 2), countdown=2.5)
    third = fleet.task("newest").delay(key, 3)
    assert len({first.id, second.id, third.id}) == 3
    assert third.get(timeout=OUTSIDE_S) == 3
    for replaced in (first, second):
        with pytest.raises(TaskRevokedError):
            replaced.get(timeout=OUTSIDE_S)
    eventually(lambda: fleet.log.count("replaced by") >= 2, deadline_s=OUTSIDE_S)
    assert len(fleet.notes(key)) == 1, "one that was replaced has run"


def test_one_that_runs_is_not_replaced(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("newest").delay(key, 1)
    begun(fleet, key)
    second = fleet.task("newest").delay(key, 2)
    go(fleet, key)
    assert second.get(timeout=OUTSIDE_S) == 2
    assert first.get(timeout=OUTSIDE_S) == 1
    assert len(fleet.notes(key)) == 2
    eventually(lambda: holder(fleet, "newest", key, 0) is None)


def test_a_second_call_can_be_an_error_that_names_the_first_one(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("only").delay(key)
    with pytest.raises(DuplicateTaskError, match=first.id) as caught:
        fleet.task("only").delay(key)
    assert caught.value.existing_id == first.id
    assert key not in str(caught.value), "the arguments are nobody's business"
    bulk = fleet.task("only").map_async([key, f"{key}b"])
    assert isinstance(bulk.errors[0], DuplicateTaskError)
    go(fleet, key)
    go(fleet, f"{key}b")
    first.get(timeout=OUTSIDE_S)
    bulk.results[1].get(timeout=OUTSIDE_S)


def test_a_failure_frees_the_lock_and_a_retry_keeps_it(fleet: Fleet) -> None:
    key = key_of(fleet)
    failed = fleet.task("fails").delay(key)
    with pytest.raises(LookupError):
        failed.get(timeout=OUTSIDE_S)
    eventually(lambda: holder(fleet, "fails", key) is None)

    retried = fleet.task("retries").delay(key)
    seen = set()
    while not retried.ready():
        seen.add(fleet.task("retries").delay(key).id)
        time.sleep(0.02)
    seen.discard(retried.id)
    # The last look may have come just after the end.
    assert len(seen) <= 1
    assert retried.get(timeout=OUTSIDE_S) == key
    assert fleet.notes(key)[:3] == ["0", "1", "2"]


def test_one_that_is_acknowledged_early_frees_its_lock_at_its_end(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("early").delay(key)
    begun(fleet, key)
    assert fleet.task("early").delay(key).id == first.id
    go(fleet, key)
    assert first.get(timeout=OUTSIDE_S) == key
    eventually(lambda: holder(fleet, "early", key) is None)


def test_one_that_was_revoked_or_expired_frees_its_lock(fleet: Fleet) -> None:
    key = key_of(fleet)
    revoked = fleet.task("done").apply_async((key,), countdown=3600)
    revoked.revoke()
    go(fleet, key)
    assert fleet.task("done").delay(key).id != revoked.id, "nobody need wait until a worker drops it"
    expired = fleet.task("done").apply_async((key, 9), countdown=0.3, expires=0.1)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=OUTSIDE_S)
    eventually(lambda: holder(fleet, "done", key, 9) is None)


def test_by_name_and_in_workflows_it_is_the_same_task(fleet: Fleet) -> None:
    key = key_of(fleet)
    name = fleet.task("done").name
    first = fleet.app.send_task(name, (key,), unique=True)
    assert fleet.task("done").delay(key).id == first.id
    assert fleet.task("done").s(key).apply_async().id == first.id
    assert fleet.task("done").apply_async((key,), unique=False).id != first.id
    go(fleet, key)
    assert first.get(timeout=OUTSIDE_S) == key
    step = fleet.task("plain").s().set(unique=Unique(by=["key"], until=30))
    made = chain(fleet.task("plain").s(key), step).apply_async()
    assert made.get(timeout=OUTSIDE_S) == key


@pytest.mark.parametrize("how", ["first", "later", "replaced"])
def test_a_step_that_is_not_sent_is_a_failure_that_names_the_one_on_its_way(fleet: Fleet, how: str) -> None:
    key = key_of(fleet)
    step, done = fleet.task("first_step"), fleet.task("done")
    running = done.apply_async((key,), countdown=3600)  # also where one process runs one task at a time
    begins = {
        "first": done.s(key),
        "later": step.s(key) | done.s(),
        "replaced": fleet.task("hands_over").s(key),
    }
    result = (begins[how] | step.s()).delay()
    lost = result.parent
    for one in (fleet.app.AsyncResult(lost.id), fleet.app.AsyncResult(result.id)):
        with pytest.raises(DuplicateTaskError) as raised:
            one.get(timeout=OUTSIDE_S)
        assert raised.value.existing_id == running.id
    if how == "later":
        assert lost.parent.get(timeout=OUTSIDE_S) == key
        fleet.wait_for_log(f"[{lost.id}] is not sent, as {running.id} has the same key")
    running.revoke()


def test_in_bulk_equal_items_are_sent_once(fleet: Fleet) -> None:
    key = key_of(fleet)
    bulk = fleet.task("done").map_async([key, f"{key}b", key, f"{key}b"])
    ids = [result.id for result in bulk.results]
    assert ids[:2] == ids[2:]
    for name in (key, f"{key}b"):
        go(fleet, name)
    assert bulk.get(timeout=OUTSIDE_S) == [key, f"{key}b"] * 2
    assert len(fleet.notes(key)) == len(fleet.notes(f"{key}b")) == 1


def test_a_lock_whose_task_has_its_result_is_taken_over(fleet: Fleet) -> None:
    """As after the death of a worker between settling and unlocking."""
    key = key_of(fleet)
    go(fleet, key)
    first = fleet.task("done").delay(key)
    first.get(timeout=OUTSIDE_S)
    eventually(lambda: holder(fleet, "done", key) is None)
    port = fleet.transport
    assert isinstance(port, Coordinates)
    unique = fleet.app.client.unique
    lock = unique.lock_name(fleet.task("done").name, (key,))
    assert port.lock(lock, first.id, 600.0) is None
    second = fleet.task("done").delay(key)
    assert second.id != first.id
    assert second.get(timeout=OUTSIDE_S) == key


def test_a_lock_can_be_seen_and_freed_by_hand(fleet: Fleet) -> None:
    key = key_of(fleet)
    name = fleet.task("done").name
    first = fleet.task("done").apply_async((key,), countdown=30)
    assert fleet.app.client.unique.holder(name, (key,)) == first.id
    assert fleet.app.client.unique.free(name, (key,)) == first.id
    assert fleet.app.client.unique.free(name, (key,)) is None
    go(fleet, key)
    assert fleet.task("done").delay(key).get(timeout=OUTSIDE_S) == key
    first.revoke()


@pytest.mark.needs("several_processes")
def test_a_killed_child_frees_nothing_and_a_dead_letter_frees_the_lock(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("done").delay(key)
    begun(fleet, key)
    os.kill(int(fleet.notes(key)[0].split()[1]), signal.SIGKILL)
    begun(fleet, key, 2)
    assert fleet.task("done").delay(key).id == first.id
    go(fleet, key)
    assert first.get(timeout=OUTSIDE_S) == key

    key = key_of(fleet)
    fleet.task("dies").delay(key)
    eventually(lambda: len(fleet.notes(key)) == 2, deadline_s=OUTSIDE_S)
    eventually(lambda: holder(fleet, "dies", key) is None, deadline_s=OUTSIDE_S)


@pytest.mark.needs("several_processes")
def test_a_hard_time_limit_frees_the_lock(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("too_long").delay(key)
    with pytest.raises(TimeLimitExceeded):
        first.get(timeout=OUTSIDE_S)
    eventually(lambda: holder(fleet, "too_long", key) is None)


def test_one_that_runs_for_longer_than_its_time_keeps_its_lock(fleet: Fleet) -> None:
    key = key_of(fleet)
    first = fleet.task("brief").delay(key)
    begun(fleet, key)
    port = fleet.transport
    assert isinstance(port, Coordinates)
    lock = fleet.app.client.unique.lock_name(fleet.task("brief").name, (key,))
    # Its start has given it RUNNING_S; a third of that later it is prolonged, or else it ends before.
    assert port.prolong(lock, first.id, 0.75 * RUNNING_S)
    time.sleep(0.9 * RUNNING_S)
    assert port.locked(lock) == first.id
    assert fleet.task("brief").delay(key).id == first.id
    go(fleet, key)
    first.get(timeout=OUTSIDE_S)
    eventually(lambda: port.locked(lock) is None)


def test_what_replaces_a_task_has_its_lock(fleet: Fleet) -> None:
    for how in ("one", "chain", "itself"):
        key = key_of(fleet)
        first = fleet.task("replaced").delay(key, how)
        begun(fleet, key)
        time.sleep(0.3)  # what replaces it runs; its own outcome is long settled
        assert holder(fleet, "replaced", key, how) == first.id
        assert fleet.task("replaced").delay(key, how).id == first.id
        go(fleet, key)
        assert first.get(timeout=OUTSIDE_S) == f"{key} {how}"
        eventually(lambda key=key, how=how: holder(fleet, "replaced", key, how) is None)
        assert len(fleet.notes(key)) == 1


def test_a_purge_frees_the_locks_of_what_it_drops(fleet: Fleet) -> None:
    key = key_of(fleet)
    queue = fleet.unique("purged")
    declared = fleet.app.client.unique
    fleet.app.client.transport.consumer([queue], f"{queue}-0", f"{queue}-0").close()
    ready = [fleet.task("done").apply_async((key, number), queue=queue) for number in range(120)]
    plain = fleet.task("plain").apply_async((key,), queue=queue)
    timed = fleet.task("plain").apply_async((key,), queue=queue, unique=Unique(until=600))
    later = fleet.task("done").apply_async((key, 900), queue=queue, countdown=3600)
    elsewhere = fleet.task("done").delay(f"{key}b")
    purged = purge(fleet.transport, queue, fleet.app.tasks, fleet.app.client.table)
    name = fleet.task("done").name
    assert purged.freed == len(ready) + int(fleet.transport.capabilities.inspects_schedule)
    assert purged.dropped == purged.freed + 2, (plain.id, timed.id)
    assert purged.unseen == 0
    assert [declared.holder(name, (key, number)) for number in range(120)] == [None] * 120
    kept = None if fleet.transport.capabilities.inspects_schedule else later.id
    assert declared.holder(name, (key, 900)) == kept, "it is dropped, or its lock is in place"
    assert declared.holder(fleet.task("plain").name, (key,)) == timed.id, "only its time ends it"
    assert declared.holder(name, (f"{key}b",)) == elsewhere.id
    go(fleet, f"{key}b")
    elsewhere.get(timeout=OUTSIDE_S)
