"""Revoking: what has not started does not run, what runs is ended if that is asked for, whoever restarts."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from prefork.engine.async_result import AsyncResult
from prefork.engine.exceptions import TaskRevokedError
from prefork.engine.revocations import BEACON
from prefork.transports.mailbox import Controls
from prefork.transports.presence import KnowsWorkers
from support.semantics import Fleet
from support.waiting import eventually

WITHIN_S = 20.0
DUE_S = 2.5
"""When what is revoked would run: later than a process hears of it that stands still for a moment."""

pytestmark = pytest.mark.needs("coordinates")

SOURCE = """
import subprocess

app = App("revoke", **SETTINGS)


@signals.task_revoked.connect
def on_revoked(sender, request, terminated, signum, expired, **_):
    note("revoked", f"{sender.name} {request.id} {terminated} {signum} {expired}")


@app.task
def work(name):
    note("ran", name)
    return name


@app.task
def brief(name):
    time.sleep(0.01)
    note("ran", name)
    return name


@app.task
def held(name, until):
    note("started", f"{name} {os.getpid()} 0")
    while not (ROOT / until).exists():
        time.sleep(0.005)
    note("ran", name)
    return name


@app.task
def long(name, seconds=60):
    sub = subprocess.Popen(["sleep", "300"])
    note("started", f"{name} {os.getpid()} {sub.pid}")
    time.sleep(seconds)
    note("ran", name)
    return name


@app.task(acks_late=False)
def early(name):
    note("started", f"{name} {os.getpid()} 0")
    time.sleep(60)


@app.task
def tidy(name, value=None):
    try:
        note("started", f"{name} {os.getpid()} 0")
        time.sleep(60)
    except SoftTimeLimitExceeded:
        note("tidied", name)
        if value is None:
            raise
        return value


@app.task
def told(request, exc, traceback):
    note("told", request.id)
"""


def started(fleet: Fleet, name: str) -> tuple[int, int]:
    """Process and sub-process of a task, once it runs."""

    def look() -> list[str]:
        return [line for line in fleet.notes("started") if line.startswith(f"{name} ")]

    line = eventually(look, deadline_s=WITHIN_S, every_s=0.01)[0]
    _, pid, sub = line.split()
    return int(pid), int(sub)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def nothing_left(fleet: Fleet) -> bool:
    depth = fleet.depth()
    return (depth.ready, depth.in_work or 0) == (0, 0)


def passes(fleet: Fleet) -> None:
    """Everything sent before has been looked at by some child."""
    fleet.task("work").delay("after").get(timeout=WITHIN_S)


# --- what has not started -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["result", "control"])
def test_a_delayed_task_that_is_revoked_does_not_run(fleet: Fleet, how: str) -> None:
    name = fleet.unique()
    result = fleet.task("work").apply_async((name,), countdown=DUE_S)
    if how == "result":
        result.revoke()
        # Where nobody knows which workers there are, whoever meets the message says it.
        assert result.state == ("REVOKED" if isinstance(fleet.transport, KnowsWorkers) else "PENDING")
    else:
        fleet.app.control.revoke([result.id, "another"])
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=WITHIN_S)
    eventually(
        lambda: f"revoke_project.work {result.id} False None False" in fleet.notes("revoked"),
        deadline_s=WITHIN_S,
    )
    assert name not in fleet.notes("ran")
    eventually(lambda: nothing_left(fleet), deadline_s=WITHIN_S)


def test_what_has_ended_stays_what_it_is(fleet: Fleet) -> None:
    result = fleet.task("work").delay(fleet.unique())
    result.get(timeout=WITHIN_S)
    result.revoke()
    passes(fleet)
    assert result.state == "SUCCESS"


def test_only_the_id_that_was_meant_is_revoked_whatever_its_length(fleet: Fleet) -> None:
    stem = (fleet.unique() * 20)[:254]  # as many as a slot holds, and one less than AMQP takes
    names = ["a", "b"]
    results = [
        fleet.task("work").apply_async((stem + name,), task_id=stem + name, countdown=DUE_S) for name in names
    ]
    results[0].revoke()
    assert results[1].get(timeout=WITHIN_S) == stem + "b"
    with pytest.raises(TaskRevokedError):
        results[0].get(timeout=WITHIN_S)
    passes(fleet)
    assert stem + "a" not in fleet.notes("ran")


@pytest.mark.parametrize("how", ["result", "control", "cast"])
def test_what_runs_goes_on_and_nobody_is_told_that_it_is_revoked(fleet: Fleet, how: str) -> None:
    # Given one that runs and one that has not started,
    name, gate = fleet.unique(), fleet.unique("gate")
    running = fleet.task("held").delay(name, gate)
    started(fleet, name)
    waiting = fleet.task("work").apply_async((name + "-waits",), countdown=DUE_S)
    # When both are revoked,
    if how == "result":
        running.revoke()
        waiting.revoke()
    elif how == "control":
        fleet.app.control.revoke([running.id, waiting.id])
    else:  # as clients of Celery do it: no answer is waited for
        fleet.app.control.broadcast("revoke", {"task_id": [running.id, waiting.id]})
    # Then the one is revoked, and the other ends as if nothing had been.
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=WITHIN_S)
    assert running.state == "PENDING"
    (fleet.root / gate).touch()
    assert running.get(timeout=WITHIN_S) == name
    assert name + "-waits" not in fleet.notes("ran")


@pytest.mark.needs("several_processes")
def test_what_another_worker_runs_is_not_said_to_be_revoked(fleet: Fleet) -> None:
    gate, names = fleet.unique("gate"), [fleet.unique() for _ in range(4)]
    with fleet.another_worker():
        results = [fleet.task("held").delay(name, gate) for name in names]
        nodes = {started(fleet, name)[0] for name in names}
        assert len(nodes) == 4
        waiting = fleet.task("work").apply_async((fleet.unique(),), countdown=60)
        for result in (*results, waiting):
            result.revoke()
        assert [result.state for result in results] == ["PENDING"] * 4
        if isinstance(fleet.transport, KnowsWorkers):
            assert waiting.state == "REVOKED"
        (fleet.root / gate).touch()
        assert [result.get(timeout=WITHIN_S) for result in results] == names


_STEP_S = 0.0004


@pytest.mark.needs("several_processes")
def test_a_task_runs_to_its_end_or_is_revoked_and_never_runs_whenever_it_is_revoked(fleet: Fleet) -> None:
    outcomes: dict[str, bool] = {}
    pause_s = 0.0  # sought: the moment in which it starts; below 0, so long before it is sent
    step_s, ran_last = _STEP_S, None
    for _ in range(120):
        name = fleet.unique()
        result = fleet.app.AsyncResult(fleet.unique("id"))
        if pause_s < 0:
            result.revoke()
            time.sleep(-pause_s)
        fleet.task("brief").apply_async((name,), task_id=result.id)
        if pause_s >= 0:
            time.sleep(pause_s)
            result.revoke()
        try:
            outcomes[name] = result.get(timeout=WITHIN_S) == name
        except TaskRevokedError:
            outcomes[name] = False
        # Small steps around that moment, larger ones to where it has moved on a busy machine.
        step_s = min(2 * step_s, 0.05) if outcomes[name] is ran_last else _STEP_S
        ran_last = outcomes[name]
        pause_s += -step_s if ran_last else step_s
    passes(fleet)
    ran = set(fleet.notes("ran"))
    assert {name: name in ran for name in outcomes} == outcomes
    assert set(outcomes.values()) == {True, False}


def test_what_is_revoked_is_not_retried(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("tidy").apply_async((name,), retries=1, countdown=DUE_S)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WITHIN_S)
    passes(fleet)
    assert not [line for line in fleet.notes("started") if line.startswith(name)]


# --- by what it is stamped with -------------------------------------------------------------------------


def stamped(fleet: Fleet, name: str, tenant: Any, **options: Any) -> Any:
    headers = {"stamped_headers": ["tenant"], "stamps": {"tenant": tenant}}
    return fleet.task("work").apply_async((name,), headers=headers, **options)


@pytest.mark.parametrize("how", ["result", "control"])
def test_what_is_stamped_with_a_revoked_value_does_not_run(fleet: Fleet, how: str) -> None:
    tenant, name = fleet.unique("tenant"), fleet.unique()
    meant = stamped(fleet, name, [tenant, "x"], countdown=DUE_S)
    other = stamped(fleet, name + "-other", "somebody", countdown=DUE_S)
    by = meant if how == "result" else fleet.app.control
    by.revoke_by_stamped_headers({"tenant": [tenant]})
    with pytest.raises(TaskRevokedError, match="revoked"):
        meant.get(timeout=WITHIN_S)
    assert other.get(timeout=WITHIN_S) == name + "-other"
    passes(fleet)
    assert name not in fleet.notes("ran")
    again = stamped(fleet, name, tenant)
    with pytest.raises(TaskRevokedError):
        again.get(timeout=WITHIN_S)


# --- what runs ------------------------------------------------------------------------------------------


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize("signal", [None, "INT"])
def test_a_running_task_is_ended_with_its_sub_processes_and_never_runs_again(
    fleet: Fleet, signal: str | None
) -> None:
    name, other = fleet.unique(), fleet.unique("other")
    result = fleet.task("long").apply_async((name,), link_error=fleet.task("told").s())
    beside = fleet.task("long").delay(other, 0.7)
    pid, sub = started(fleet, name)
    neighbour, _ = started(fleet, other)
    begun_s = time.monotonic()
    result.revoke(terminate=True, signal=signal)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WITHIN_S)
    if signal != "INT":
        eventually(lambda: not alive(pid) and not alive(sub), deadline_s=WITHIN_S)
    assert time.monotonic() - begun_s < 5.0
    assert beside.get(timeout=WITHIN_S) == other
    assert alive(neighbour)
    eventually(lambda: nothing_left(fleet), deadline_s=WITHIN_S)
    passes(fleet)
    assert len([line for line in fleet.notes("started") if line.startswith(name)]) == 1
    assert [name in fleet.notes("ran"), result.id in fleet.notes("told")] == [False, False]
    number = {None: 15, "INT": 2}[signal]
    line = f"revoke_project.long {result.id} True {number} False"
    eventually(lambda: line in fleet.notes("revoked"), deadline_s=WITHIN_S)
    assert result.state == "REVOKED"
    assert "next replacement in" not in fleet.log
    assert fleet.dead() == []


@pytest.mark.needs("several_processes")
def test_a_task_that_was_acknowledged_early_is_ended(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("early").delay(name)
    pid, _ = started(fleet, name)
    fleet.app.control.terminate(result.id)
    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=WITHIN_S)
    eventually(lambda: not alive(pid), deadline_s=WITHIN_S)


@pytest.mark.needs("several_processes")
def test_a_soft_signal_lets_a_task_clean_up(fleet: Fleet) -> None:
    names = [fleet.unique(), fleet.unique()]
    ended = fleet.task("tidy").delay(names[0])
    saved = fleet.task("tidy").delay(names[1], "what there is")
    pids = [started(fleet, name)[0] for name in names]
    answers = fleet.app.control.revoke(
        [ended.id, saved.id], terminate=True, signal="SIGUSR1", reply=True, timeout=5, limit=1
    )
    with pytest.raises(TaskRevokedError, match="terminated"):
        ended.get(timeout=WITHIN_S)
    eventually(lambda: set(names) <= set(fleet.notes("tidied")), deadline_s=WITHIN_S)
    assert saved.get(timeout=WITHIN_S) == "what there is"
    [answer] = answers[0].values()
    assert all(one.id in answer["ok"] for one in (ended, saved))
    assert all(map(alive, pids))


@pytest.mark.needs("several_processes")
def test_a_request_that_is_early_finds_its_task(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("long").apply_async((name,), task_id=fleet.unique("early"))
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WITHIN_S)
    eventually(lambda: nothing_left(fleet), deadline_s=WITHIN_S)
    assert name not in fleet.notes("ran")


def test_a_worker_of_one_process_says_that_it_cannot_end_what_runs(fleet: Fleet) -> None:
    if fleet.several_processes:
        answers = fleet.app.control.terminate("not here", reply=True, timeout=5, limit=1)
        assert answers[0].popitem()[1]["ok"].startswith("terminate: tasks unknown")
        return
    name = fleet.unique()
    later = fleet.task("work").apply_async((name,), countdown=DUE_S)
    answers = fleet.app.control.terminate(later.id, reply=True, timeout=5, limit=1)
    assert "-P solo" in answers[0].popitem()[1]["error"]
    with pytest.raises(TaskRevokedError):
        later.get(timeout=WITHIN_S)


# --- restarts -------------------------------------------------------------------------------------------


@pytest.mark.needs("several_processes")
def test_a_revocation_outlives_every_worker_by_the_broker_alone(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("work").apply_async((name,), countdown=2.0)
    fleet.kill_worker()
    fleet.app.control.revoke(result.id)
    # No result store is asked: nothing of it is there.
    fleet.app.client.stored.forget([result.id, BEACON])
    fleet.start_worker()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WITHIN_S)
    passes(fleet)
    assert name not in fleet.notes("ran")


def another_agent_than(fleet: Fleet, agent: int) -> None:
    eventually(lambda: fleet.worker.stats()["agent"]["pid"] not in (None, 0, agent), deadline_s=WITHIN_S)


def await_delayed(fleet: Fleet, task_id: str) -> None:
    """Wait until no child has it in hand to see when it is due.

    Such a child could store REVOKED just before that is forgotten. On RabbitMQ it never was in such a queue.
    """
    if fleet.name != "amqp":
        eventually(
            lambda: task_id in [one.id for one in fleet.waiting(delayed=True)],
            deadline_s=WITHIN_S,
        )


def revoked_and_forgotten_before_it_is_due(fleet: Fleet, name: str) -> tuple[AsyncResult, int]:
    """Revoke a delayed task, forget what was stored of that, and kill the agent, all before it is due.

    On a machine so busy that it was due by then, REVOKED may have been stored and forgotten: once more,
    with more time.
    """
    for countdown_s in (2.0, 6.0, 18.0):
        result = fleet.task("work").apply_async((name,), countdown=countdown_s)
        due_mono_s = time.monotonic() + countdown_s
        await_delayed(fleet, result.id)
        fleet.app.control.revoke(result.id, reply=True, timeout=5, limit=1)
        agent: int = fleet.worker.stats()["agent"]["pid"]
        fleet.app.client.stored.forget([result.id, BEACON])
        os.kill(agent, 9)
        if time.monotonic() < due_mono_s - 0.5:
            return result, agent
        another_agent_than(fleet, agent)
    raise AssertionError("18 s are not enough to revoke a task and to kill a process")


@pytest.mark.needs("several_processes")
def test_a_revocation_outlives_the_agent(fleet: Fleet) -> None:
    name = fleet.unique()
    result, agent = revoked_and_forgotten_before_it_is_due(fleet, name)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WITHIN_S)
    another_agent_than(fleet, agent)
    # The new agent has a number before it listens: on RabbitMQ nobody keeps what is asked until then.
    eventually(
        lambda: (
            (found := fleet.app.control.inspect(timeout=1, limit=1).revoked())
            and result.id in found.popitem()[1]
        ),
        deadline_s=WITHIN_S,
    )
    assert name not in fleet.notes("ran")


def test_the_broker_carries_remote_control(fleet: Fleet) -> None:
    assert isinstance(fleet.transport, Controls)
