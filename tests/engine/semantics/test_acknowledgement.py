"""Every row of the documented table of acknowledgement, tried on real workers.

A task notes each of its runs, and misbehaves in the first one only: whatever comes back runs once more and
succeeds, so that the runs, the last state and the dead letters show which verdict there was.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefork.engine.exceptions import WorkerLostError
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "acknowledgement.md"
WORKER = {
    "task_max_crashes": 2,
    "task_unknown_grace": 0.3,
    "task_unknown_retry_delay": 0.1,
    "worker_hard_memory_limit": 300 * 1024,
}
SOURCE = """
from itertools import product

app = App("acknowledgement", result_extended=True, **SETTINGS)

def act(self, key, how):
    runs = ROOT / key
    before = runs.read_text() if runs.exists() else ""
    note(key, f"{self.request.crashes}")
    if before or how == "returned":
        return "done"
    if how == "raised":
        raise ValueError("raised")
    if how == "retry":
        raise self.retry(countdown=3600)
    if how == "ignore":
        raise Ignore()
    if how == "snooze":
        raise Snooze(3600)
    if how == "reject":
        raise Reject("no", requeue=False)
    if how == "reject, requeue":
        raise Reject("not now", requeue=True)
    if how == "process died":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory limit":
        big = b"x" * (500 << 20)
    time.sleep(60)

for flags in product((False, True), repeat=4):
    late, failure, timeout, requeue = flags
    app.task(
        name="act." + "".join("ny"[flag] for flag in flags), bind=True, acks_late=late,
        acks_on_failure=failure, acks_on_timeout=timeout, reject_on_worker_lost=requeue,
    )(act)

@app.task(name="act.neither", bind=True, acks_on_failure_or_timeout=False)
def neither(self, key, how):
    return act(self, key, how)

@app.task(name="act.failure alone", bind=True, acks_on_failure_or_timeout=False, acks_on_failure=True)
def failure_alone(self, key, how):
    return act(self, key, how)

@app.task
def dies(key):
    note(key, "ran")
    os.kill(os.getpid(), signal.SIGKILL)

@app.task
def mourn(request, exc, traceback, key):
    note(key, f"{type(exc).__name__} {request.id}")
"""


class Row(NamedTuple):
    """One row of the table."""

    how: str
    flags: tuple[str, ...]
    verdict: str
    state: str
    charged: bool

    @property
    def id(self) -> str:
        """For the test's name: what happened, and late, failure, timeout, requeue."""
        return f"{self.how}:{''.join(flag[0] for flag in self.flags)}"

    def task(self, star: str) -> str:
        """Name of the task with these options, an asterisk being what `star` says."""
        return "act." + "".join((star if flag == "*" else flag)[0] for flag in self.flags)


def documented() -> list[Row]:
    """The rows of the page."""
    rows = []
    for line in PAGE.read_text().partition("<!-- settlement table")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0] not in ("what happened", "---"):
            rows.append(Row(cells[0], tuple(cells[1:5]), cells[5], cells[6], cells[7] == "yes"))
    return rows


ROWS = documented()
HERE = ("returned", "raised", "retry", "ignore", "snooze", "reject", "reject, requeue")
WITH_PROCESSES = ("soft time limit", "hard time limit", "process died", "memory limit")
BY_NAME = {row.how: row for row in ROWS}
ELSEWHERE = (
    "terminated on request",  # test_terminate.py
    "interrupted by shutdown",
    "expired",
    "revoked",
    "not due yet",
    "unknown task, within grace",
    "unknown task",
    "content type not accepted",
    "malformed",
)
# Long enough that a run is noted before it is ended, though its process stands still for a moment.
LIMITS = {"soft time limit": {"soft_time_limit": 1.0}, "hard time limit": {"time_limit": 1.0}}


def is_dead(fleet: Fleet, task_id: str) -> bool:
    """Whether a message of this id is among the dead letters."""
    return any(task_id.encode() in letter.document for letter in fleet.dead())


def judge(fleet: Fleet, row: Row, key: str, result: Any) -> None:
    """Whether runs, state and dead letters are those of the row's verdict."""
    runs = 2 if row.verdict == "REQUEUE" else 1
    eventually(lambda: len(fleet.notes(key)) == runs, deadline_s=OUTSIDE_S)
    state = "SUCCESS" if row.verdict == "REQUEUE" else row.state.replace("-", "PENDING")
    eventually(lambda: result.state == state, deadline_s=OUTSIDE_S)
    if row.verdict == "DEAD":
        eventually(lambda: is_dead(fleet, result.id), deadline_s=OUTSIDE_S)
    else:
        assert not is_dead(fleet, result.id)
    if row.verdict == "REQUEUE":
        # RabbitMQ has no record of a start that nobody suspected (docs/reference/rabbitmq.md).
        charged = row.charged and fleet.name != "amqp"
        assert fleet.notes(key)[1] == ("1" if charged else "0"), "crashes on record"
    assert len(fleet.notes(key)) == runs


def test_every_row_of_the_table_is_tried() -> None:
    assert {row.how for row in ROWS} == {*HERE, *WITH_PROCESSES, *ELSEWHERE}


@pytest.mark.parametrize("star", ["yes", "no"])
@pytest.mark.parametrize("row", [row for row in ROWS if row.how in HERE], ids=lambda row: row.id)
def test_what_a_task_does_settles_its_message(fleet: Fleet, row: Row, star: str) -> None:
    key = fleet.unique()
    judge(fleet, row, key, fleet.app.tasks[row.task(star)].delay(key, row.how))


def _marks(row: Row) -> list[pytest.MarkDecorator]:
    """Memory is sampled now and then, by the same code whatever the broker."""
    return [pytest.mark.slow, pytest.mark.soak_on("redis", "amqp")] if row.how == "memory limit" else []


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize(
    "row",
    [
        # A memory limit is looked at once a second.
        pytest.param(row, id=row.id, marks=_marks(row))
        for row in ROWS
        if row.how in WITH_PROCESSES
    ],
)
def test_what_is_done_to_a_task_settles_its_message(fleet: Fleet, row: Row) -> None:
    key = fleet.unique()
    sent = fleet.app.tasks[row.task("no")].apply_async((key, row.how), **LIMITS.get(row.how, {}))
    judge(fleet, row, key, sent)


def test_the_combined_option_stands_for_both_and_the_single_ones_win(fleet: Fleet) -> None:
    for task, verdict in (("act.neither", "DEAD"), ("act.failure alone", "ACK")):
        key = fleet.unique()
        row = Row("raised", (), verdict, "FAILURE", False)
        judge(fleet, row, key, fleet.app.tasks[task].delay(key, "raised"))


@pytest.mark.needs("several_processes")
def test_the_combined_option_holds_for_limits_too(fleet: Fleet) -> None:
    key = fleet.unique()
    row = Row("soft time limit", (), "REQUEUE", "-", False)
    judge(fleet, row, key, fleet.app.tasks["act.neither"].apply_async((key, row.how), **LIMITS[row.how]))


@pytest.mark.needs("several_processes")
def test_a_message_that_crashed_too_often_is_a_dead_letter_and_its_error_callbacks_are_called(
    fleet: Fleet,
) -> None:
    key = fleet.unique("poison")
    result = fleet.task("dies").apply_async((key,), link_error=fleet.task("mourn").s(f"{key}.mourned"))
    eventually(lambda: is_dead(fleet, result.id), deadline_s=OUTSIDE_S)
    with pytest.raises(WorkerLostError, match="crashes"):
        result.get(timeout=OUTSIDE_S)
    assert fleet.notes(key) == ["ran"] * (3 if fleet.name == "amqp" else 2)
    eventually(lambda: fleet.notes(f"{key}.mourned"), deadline_s=OUTSIDE_S)
    assert fleet.notes(f"{key}.mourned") == [f"WorkerLostError {result.id}"]


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.how == "interrupted by shutdown"], ids=lambda row: row.id
)
def test_what_a_shutdown_interrupts_is_settled(fleet: Fleet, row: Row) -> None:
    key = fleet.unique()
    result = fleet.app.tasks[row.task("no")].delay(key, row.how)
    eventually(lambda: fleet.notes(key), deadline_s=OUTSIDE_S)
    fleet.worker.stop(0.1)
    fleet.start_worker()
    judge(fleet, row, key, result)


def test_what_expired_or_was_revoked_does_not_run(fleet: Fleet) -> None:
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    for how in ("expired", "revoked"):
        key, row = fleet.unique(), BY_NAME[how]
        assert (row.verdict, row.state) == ("ACK", "REVOKED")
        options: dict[str, Any] = {"expires": past} if how == "expired" else {"countdown": 2.5}
        result = fleet.app.tasks["act.yyyy"].apply_async((key, "returned"), **options)
        if how == "revoked":
            result.revoke()
        eventually(lambda: result.state == row.state, deadline_s=OUTSIDE_S)  # noqa: B023
        assert (fleet.notes(key), is_dead(fleet, result.id)) == ([], False)


def test_what_comes_before_its_time_waits(fleet: Fleet) -> None:
    key = fleet.unique()
    with fleet.app.client.collecting() as messages:
        result = fleet.app.tasks["act.yyyy"].apply_async((key, "returned"), countdown=0.4)
    due = messages[0].due_wall_s
    fleet.send_raw(messages[0].document)
    assert BY_NAME["not due yet"].verdict == "DEFER"
    assert result.get(timeout=OUTSIDE_S) == "done"
    assert due is None or result.date_done.timestamp() >= due
    assert len(fleet.notes(key)) == 1


def test_an_unknown_task_waits_and_becomes_a_dead_letter(fleet: Fleet) -> None:
    assert BY_NAME["unknown task, within grace"].verdict == "DEFER"
    row = BY_NAME["unknown task"]
    result = fleet.app.send_task("no.such.task")
    eventually(lambda: is_dead(fleet, result.id), deadline_s=OUTSIDE_S)
    eventually(lambda: result.state == row.state, deadline_s=OUTSIDE_S)


def test_what_cannot_be_read_becomes_a_dead_letter(fleet: Fleet) -> None:
    row = BY_NAME["content type not accepted"]
    with fleet.app.client.collecting() as messages:
        result = fleet.app.tasks["act.yyyy"].apply_async(("x", "returned"))
    document = messages[0].document.replace(b'"application/json"', b'"application/x-nothing"')
    fleet.send_raw(document)
    eventually(lambda: is_dead(fleet, result.id), deadline_s=OUTSIDE_S)
    eventually(lambda: result.state == row.state, deadline_s=OUTSIDE_S)
    before = len(fleet.dead())
    fleet.send_raw(b"no message at all")
    eventually(lambda: len(fleet.dead()) == before + 1, deadline_s=OUTSIDE_S)
    assert (row.verdict, BY_NAME["malformed"].verdict) == ("DEAD", "DEAD")


def test_nothing_that_was_settled_comes_back_to_another_worker(fleet: Fleet) -> None:
    def runs() -> int:
        return sum(len(path.read_text().splitlines()) for path in fleet.root.glob("x-*"))

    before = runs()
    if fleet.several_processes:
        fleet.restart()
    key = fleet.unique("last")
    assert fleet.app.tasks["act.yyyy"].delay(key, "returned").get(timeout=OUTSIDE_S) == "done"
    assert runs() == before
