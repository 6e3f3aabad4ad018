"""A chain in which a step ends without success: every later step has that end for its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import (
    Ignore,
    NotRegistered,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
)
from prefork.engine.scoreboard import S_STOP, Stop
from prefork.engine.unreached import steps_of
from prefork.transports.base import Outgoing
from support.apps import payload, sent
from support.corpus import document_of, good_parts
from support.one_child import OneChild

Make = Callable[..., OneChild]


def after(app: App) -> Any:
    """A signature that takes anything."""

    @app.task(name="after")
    def follow(value=None):
        return value

    return follow.s()


def states(result: Any) -> list[str]:
    """Of a chain's results, first to last."""
    found = []
    while result is not None:
        found.append(result.app.AsyncResult(result.id).state)
        result = result.parent
    return found[::-1]


@pytest.mark.parametrize(
    "error",
    [LookupError("no"), Reject("not for me"), SoftTimeLimitExceeded(), SystemExit(3), object()],
    ids=["error", "reject", "soft limit", "exit", "no form"],
)
def test_each_later_step_ends_as_the_one_that_failed(app: App, child_of: Make, error: Any) -> None:
    @app.task
    def bad():
        if isinstance(error, BaseException):
            raise error
        return error  # which cannot be stored

    result = (bad.s() | after(app) | after(app)).delay()
    child_of(app).run()
    assert states(result) == ["FAILURE"] * 3
    with pytest.raises(BaseException) as raised:
        result.parent.parent.get(timeout=1)
    with pytest.raises(raised.type) as last:
        result.get(timeout=1, follow_parents=False)
    assert str(last.value) == str(raised.value)
    assert result.traceback == result.parent.parent.traceback


def test_a_failure_in_the_middle_leaves_what_went_before(app: App, child_of: Make) -> None:
    @app.task
    def bad(value):
        raise LookupError(value)

    result = (after(app).clone((1,)) | bad.s() | after(app)).delay()
    child_of(app).run()
    assert states(result) == ["SUCCESS", "FAILURE", "FAILURE"]


@pytest.mark.parametrize(
    "leave", [Ignore(), Reject("not now", requeue=True), "retry"], ids=["ignore", "requeue", "retry"]
)
def test_what_has_not_ended_for_good_ends_nothing(app: App, child_of: Make, leave: Any) -> None:
    @app.task(bind=True)
    def unsure(self):
        child.words[S_STOP] = Stop.LEAVE
        raise self.retry(countdown=3600) if leave == "retry" else leave

    result = (unsure.s() | after(app)).delay()
    child = child_of(app)
    child.run()
    assert states(result)[1] == "PENDING"


def test_a_retry_that_is_the_last_one_ends_the_chain(app: App, child_of: Make) -> None:
    @app.task(bind=True, max_retries=1)
    def again(self):
        raise self.retry(exc=LookupError("no"), countdown=0)

    result = (again.s() | after(app)).delay()
    child_of(app).run()
    assert states(result) == ["FAILURE", "FAILURE"]


def test_a_callback_that_cannot_be_sent_ends_the_chain(app: App, child_of: Make) -> None:
    @app.task
    def good():
        return 1

    result = (good.s() | after(app).set(countdown="soon") | after(app)).delay()
    child_of(app).run()
    assert states(result) == ["FAILURE"] * 3


def test_a_later_step_that_ignores_its_result_gets_none(app: App, child_of: Make) -> None:
    @app.task
    def bad():
        raise LookupError("no")

    @app.task(ignore_result=True)
    def quiet(value=None):
        return value

    result = (bad.s() | quiet.s() | after(app)).delay()
    child_of(app).run()
    assert states(result) == ["FAILURE", "PENDING", "FAILURE"]


def test_a_failure_that_is_ignored_is_told_to_who_waits_for_what_follows(app: App, child_of: Make) -> None:
    @app.task(ignore_result=True)
    def bad():
        raise LookupError("no")

    result = (bad.s() | after(app)).delay()
    child_of(app).run()
    assert states(result) == ["PENDING", "FAILURE"]
    with pytest.raises(LookupError):
        result.get(timeout=1)


@pytest.mark.parametrize("how", ["revoked", "expired", "unknown"])
def test_a_task_that_never_runs_ends_its_chain(app: App, child_of: Make, how: str) -> None:
    app.conf.task_unknown_grace = 0
    name = "nobody" if how == "unknown" else "after"
    first = app.signature(name) if how == "unknown" else after(app)
    options = {"expires": 0.001} if how == "expired" else {}
    result = (first.set(**options) | after(app) | after(app)).apply_async()
    if how == "revoked":
        app.client.stored.revoke([result.parent.parent.id])
    if how == "expired":
        (message,) = sent(app)
        while time.time() <= (message.expires_wall_s or 0):
            pass
    child_of(app).run()
    state, kind = ("FAILURE", NotRegistered) if how == "unknown" else ("REVOKED", TaskRevokedError)
    assert states(result) == [state] * 3
    with pytest.raises(kind):
        result.get(timeout=1, follow_parents=False)


def test_a_malformed_message_ends_its_chain_as_far_as_that_can_be_read(app: App, child_of: Make) -> None:
    result = (after(app) | after(app)).delay()
    (message,) = sent(app)
    (step,) = payload(app, message)[2].chain or ()
    app.client.transport.purge("celery")
    parts = good_parts()
    parts["headers"].update(task="after", id=result.parent.id, eta="never")
    body = b'[[], {}, {"chain": [{"task": "after", "options": {"task_id": "%s"}}]}]'
    assert [one.id for one in steps_of([step])] == [result.id]
    app.client.transport.send([Outgoing("celery", document_of(parts, body % result.id.encode()))])
    child_of(app).run()
    assert states(result) == ["FAILURE", "FAILURE"]
