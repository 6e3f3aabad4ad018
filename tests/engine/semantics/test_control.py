"""Remote control of running workers, through every broker that carries it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefork.engine.exceptions import TaskRevokedError, TimeLimitExceeded
from prefork.transports.base import Message
from support.semantics import Fleet
from support.waiting import eventually

pytestmark = pytest.mark.needs("controls")

SOURCE = """
app = App("shop", **SETTINGS)


@app.task
def add(x, y):
    return x + y


@app.task
def nap(name, wait_s=30.0):
    note("begun", name)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return name


@app.task
def held(name, gate):
    note("begun", name)
    while not (ROOT / gate).exists():
        time.sleep(0.01)
    return name


@app.task(time_limit=25.0)
def bounded(name):
    note("begun", name)
    time.sleep(30)
"""

WAIT_S = 20.0


def answers(fleet: Fleet, command: str, count: int = 1, **arguments: Any) -> dict[str, Any]:
    """What so many workers answer."""
    replies = fleet.app.control.broadcast(command, arguments, reply=True, timeout=WAIT_S, limit=count)
    assert replies is not None
    return {node: answer for reply in replies for node, answer in reply.items()}


def answer(fleet: Fleet, command: str, **arguments: Any) -> Any:
    """What the worker answers."""
    (only,) = answers(fleet, command, **arguments).values()
    return only


@contextmanager
def gate_of(fleet: Fleet) -> Iterator[str]:
    """What tasks are held by while the block lasts."""
    name = fleet.unique("gate")
    try:
        yield name
    finally:
        (fleet.root / name).touch()


def test_a_worker_answers_a_ping_within_a_moment(fleet: Fleet) -> None:
    answer(fleet, "ping")
    begun_s = time.monotonic()
    assert answer(fleet, "ping") == {"ok": "pong"}
    assert time.monotonic() - begun_s < 2.0


def test_only_those_that_are_meant_answer(fleet: Fleet) -> None:
    (node,) = answers(fleet, "ping")
    control = fleet.app.control
    assert control.ping(destination=[node], timeout=WAIT_S) == [{node: {"ok": "pong"}}]
    assert control.ping(destination=["nobody@nowhere"], timeout=0.5) == []
    name = node.partition("@")[0]
    matching = control.broadcast(
        "ping", reply=True, pattern=f"{name}*", matcher="glob", timeout=WAIT_S, limit=1
    )
    assert matching == [{node: {"ok": "pong"}}]
    assert control.broadcast("ping", reply=True, pattern="x*", matcher="glob", timeout=0.5) == []


def test_an_unknown_command_and_a_wrong_argument_are_answered_as_celery_does(fleet: Fleet) -> None:
    assert answer(fleet, "no_such_thing") == {"error": "KeyError('no_such_thing')"}
    assert "error" in answer(fleet, "rate_limit", task_name="shop.add")
    assert answer(fleet, "rate_limit", task_name="no.such", rate_limit="1/s") == {"error": "unknown task"}
    assert (
        "Invalid rate limit string"
        in answer(fleet, "rate_limit", task_name=fleet.task("add").name, rate_limit="often")["error"]
    )
    assert answer(fleet, "time_limit", task_name="no.such", soft=1) == {"error": "unknown task"}


def test_it_says_what_runs_while_every_child_is_busy(fleet: Fleet) -> None:
    name = fleet.unique()
    with gate_of(fleet) as gate:
        results = [fleet.task("held").delay(f"{name}-{n}", gate) for n in range(2)]
        running = 2 if fleet.several_processes else 1
        eventually(lambda: len(answer(fleet, "active")) == running, deadline_s=WAIT_S)
        shown = answer(fleet, "active", safe=True)
        assert {one["id"] for one in shown} <= {result.id for result in results}
        assert {one["name"] for one in shown} == {fleet.task("held").name}
        assert all(abs(time.time() - one["time_start"]) < WAIT_S for one in shown)
        if "recall_by_others" not in _gaps(fleet):
            assert all(name in one["args"] for one in shown)
        found = answer(fleet, "query_task", ids=[shown[0]["id"], "unknown"])
        assert {task_id: one[0] for task_id, one in found.items()} == {shown[0]["id"]: "active"}
    for result in results:
        result.get(timeout=WAIT_S)


def test_it_shows_of_arguments_what_the_caller_lets_be_seen(fleet: Fleet) -> None:
    name = fleet.unique()
    with gate_of(fleet) as gate:
        shown_as = {"argsrepr": "(ARGSREPR)", "kwargsrepr": "{KWARGSREPR}"}
        hidden = fleet.task("held").apply_async((name, gate), **shown_as)
        eventually(lambda: [one["id"] for one in answer(fleet, "active")] == [hidden.id], deadline_s=WAIT_S)
        for options in ({}, {"safe": True}):
            (shown,) = answer(fleet, "active", **options)
            assert shown["id"] == hidden.id
            if "recall_by_others" not in _gaps(fleet):
                assert (shown["args"], shown["kwargs"]) == ("(ARGSREPR)", "{KWARGSREPR}")
        (_, known) = answer(fleet, "query_task", ids=[hidden.id])[hidden.id]
        assert name not in repr(known)
    assert hidden.get(timeout=WAIT_S) == name


def _gaps(fleet: Fleet) -> set[str]:
    return set() if fleet.capabilities.recall_by_others else {"recall_by_others"}


def test_it_tells_about_itself(fleet: Fleet) -> None:
    assert fleet.task("add").name in answer(fleet, "registered")
    assert [queue["name"] for queue in answer(fleet, "active_queues")] == ["celery"]
    conf = answer(fleet, "conf")
    assert "broker_url" in conf
    assert "guest:guest" not in str(conf)
    assert answer(fleet, "scheduled") == []
    assert answer(fleet, "reserved") == []
    first, second = (answer(fleet, "clock")["clock"] for _ in range(2))
    assert second > first
    stats = answer(fleet, "stats")
    assert stats["uptime"] >= 0
    assert stats["pool"]["max-concurrency"] == (2 if fleet.several_processes else 1)
    assert "prefork" in answer(fleet, "report")["ok"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [(0, "rate_limit=0"), ("7/m", "rate_limit=7/m"), (2.5, "rate_limit=2.5/s"), (None, ""), ("5/h", "=5/h")],
)
def test_a_rate_that_was_set_at_run_time_is_shown(fleet: Fleet, given: Any, shown: str) -> None:
    task = fleet.task("add").name
    assert task in answer(fleet, "registered")
    assert "ok" in answer(fleet, "rate_limit", task_name=task, rate_limit=given)
    found = [one for one in answer(fleet, "registered") if one.startswith(task)]
    answer(fleet, "rate_limit", task_name=task, rate_limit=None)
    assert len(found) == 1
    assert shown in found[0] and ("rate_limit" in found[0]) == bool(shown)


def test_revoked_tasks_do_not_run(fleet: Fleet) -> None:
    result = fleet.task("add").apply_async((1, 2), countdown=2.5)
    assert "flagged as revoked" in answer(fleet, "revoke", task_id=result.id)["ok"]
    assert result.id in answer(fleet, "revoked")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT_S)


def test_a_list_of_ids_is_revoked_in_one_command(fleet: Fleet) -> None:
    ids = [fleet.unique("id") for _ in range(500)]
    fleet.app.control.revoke(ids)
    eventually(lambda: set(ids) <= set(answer(fleet, "revoked")), deadline_s=WAIT_S)


def test_commands_of_one_client_are_carried_out_in_order(fleet: Fleet) -> None:
    task = fleet.task("add").name
    for rate in ("7/s", "8/s", "9/s"):
        fleet.app.control.rate_limit(task, rate)
    assert answer(fleet, "rate_limit", task_name=task, rate_limit=None) == {
        "ok": "rate limit disabled successfully"
    }
    assert fleet.task("add").delay(1, 1).get(timeout=WAIT_S) == 2


def test_a_rate_is_changed_and_0_pauses_until_it_is_lifted(fleet: Fleet) -> None:
    task = fleet.task("add")
    assert "paused" in answer(fleet, "rate_limit", task_name=task.name, rate_limit=0)["ok"]
    paused = task.delay(2, 2)
    other = fleet.task("nap").delay(fleet.unique(), 0.0)
    other.get(timeout=WAIT_S)
    assert not paused.ready()
    answer(fleet, "rate_limit", task_name=task.name, rate_limit=None)
    assert paused.get(timeout=WAIT_S) == 4


@pytest.mark.needs("several_processes")
def test_time_limits_are_changed_for_the_tasks_to_come(fleet: Fleet) -> None:
    for task in ("nap", "bounded"):
        name = fleet.task(task).name
        done = answer(fleet, "time_limit", task_name=name, soft=None, hard=0.3)
        assert done == {"ok": "time limits set successfully"}
        with pytest.raises(TimeLimitExceeded):
            fleet.task(task).delay(fleet.unique()).get(timeout=WAIT_S)
        answer(fleet, "time_limit", task_name=name, soft=None, hard=None)
    assert fleet.task("nap").delay("again", 0.6).get(timeout=WAIT_S) == "again"


@pytest.mark.needs("several_processes")
def test_what_a_call_asks_for_wins_over_a_command(fleet: Fleet) -> None:
    name = fleet.task("nap").name
    answer(fleet, "time_limit", task_name=name, hard=0.3)
    longer = fleet.task("nap").apply_async((fleet.unique(), 0.6), time_limit=20.0)
    assert longer.get(timeout=WAIT_S)
    answer(fleet, "time_limit", task_name=name)


@pytest.mark.needs("several_processes")
def test_limits_that_make_no_sense_are_refused(fleet: Fleet) -> None:
    name = fleet.task("nap").name
    for soft, hard in ((5, 1), (-1, None), (None, 0), ("x", None), (True, None)):
        assert "ValueError" in answer(fleet, "time_limit", task_name=name, soft=soft, hard=hard)["error"]


@pytest.mark.needs("several_processes")
def test_the_pool_grows_and_shrinks(fleet: Fleet) -> None:
    assert answer(fleet, "pool_grow", n=1) == {"ok": "pool will grow"}
    eventually(lambda: answer(fleet, "stats")["pool"]["max-concurrency"] == 3, deadline_s=WAIT_S)
    assert answer(fleet, "pool_shrink", n=1) == {"ok": "pool will shrink"}
    eventually(lambda: answer(fleet, "stats")["pool"]["max-concurrency"] == 2, deadline_s=WAIT_S)
    assert "ValueError" in answer(fleet, "pool_grow", n=0)["error"]


def test_requests_that_are_none_do_no_harm(fleet: Fleet) -> None:
    controls: Any = fleet.transport
    for body, content_type in (
        (b"\xff\x00", "application/json"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b'{"method": "ping", "destination": 7}', "application/json"),
        (b'{"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"}', "application/json"),
        (b"cos\nsystem\n(S'x'\ntR.", "application/x-python-serialize"),
    ):
        controls.broadcast("celery", Message(body, content_type, "utf-8", {}, {"delivery_mode": 2}))
    counts = eventually(lambda: _settled(answer(fleet, "stats")["control"]), deadline_s=WAIT_S)
    assert counts["malformed"] + counts["misaddressed"] >= 6
    assert fleet.task("add").delay(3, 4).get(timeout=WAIT_S) == 7


def _settled(counts: dict[str, int]) -> dict[str, int] | None:
    return counts if counts.get("malformed", 0) + counts.get("misaddressed", 0) >= 6 else None


def test_a_second_worker_knows_what_the_first_has_revoked(fleet: Fleet) -> None:
    one = fleet.unique("id")
    fleet.app.control.revoke(one)
    eventually(lambda: one in answer(fleet, "revoked"), deadline_s=WAIT_S)
    with fleet.another_worker():
        count = 2 if fleet.several_processes else 1  # threads of one process have one name
        eventually(
            lambda: [one in found for found in answers(fleet, "revoked", count).values()] == [True] * count,
            deadline_s=WAIT_S,
        )
