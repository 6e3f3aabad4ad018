"""Suspects that do not run again: they crashed too often, or somebody left word about their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import TimeLimitExceeded, WorkerLostError
from prefork.engine.result_document import decode
from prefork.engine.scoreboard import C_RUNNING, S_HIGH_SLOT, S_PID, Scoreboard
from prefork.transports.base import REASON_CRASHES, Delivery
from prefork.transports.errors import BrokerUnavailable
from support.apps import memory_app
from support.listening import failures_heard
from support.one_child import OneChild

Make = Callable[..., OneChild]


class Telling:
    """A consumer whose messages have a past, as one of RabbitMQ has."""

    def __init__(self, inner: Any, *, crashes: int = 0, notes: list[bytes | Exception | None]) -> None:
        self._inner = inner
        self._crashes = crashes
        self._notes = notes
        self.started = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        return [
            Delivery(one.tag, one.queue, one.document, one.priority, self._crashes, True, True)
            for one in self._inner.reserve(1, timeout_s)
        ]

    def mark_started(self, tag: bytes) -> bool:
        self.started += 1
        return bool(self._inner.mark_started(tag))

    def obituary(self, tag: bytes) -> bytes | None:
        note = self._notes.pop(0)
        if isinstance(note, Exception):
            raise note
        return note


def run(
    app: App,
    child_of: Make,
    *,
    crashes: int = 0,
    notes: tuple[bytes | Exception | None, ...] = (None,),
    board: Scoreboard | None = None,
    **options: Any,
) -> tuple[list[int], Telling, Any]:
    """Run one suspect; returns what ran, the consumer, and the stored result."""
    ran: list[int] = []

    @app.task(name="suspect")
    def suspect(n):
        ran.append(n)
        return n

    @app.task(name="after")
    def after(*args):
        return None

    child = child_of(app)
    telling = Telling(child.parts.consumer, crashes=crashes, notes=list(notes))
    child.parts.consumer = telling
    child.parts.scoreboard = board
    child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
    suspect.apply_async((1,), task_id="s", link_error=after.s().set(queue="errors"), **options)
    child.run()
    document = app.client.results.get(["s"])[0]
    return ran, telling, None if document is None else decode(document, app.client.table.by_name("json"))


def test_a_suspect_of_which_nobody_knows_anything_runs_with_its_start_on_record(
    app: App, child_of: Make
) -> None:
    ran, telling, result = run(app, child_of)
    assert (ran, telling.started, result.status) == ([1], 1, "SUCCESS")


def test_word_of_its_end_settles_a_suspect_and_sends_its_error_callbacks(app: App, child_of: Make) -> None:
    with failures_heard() as told:
        ran, telling, result = run(app, child_of, notes=(b'{"verdict":"timeout","limit_s":2.0}',))
    assert (ran, telling.started) == ([], 0)
    assert (result.status, result.result["exc_type"]) == ("FAILURE", "TimeLimitExceeded")
    ((sender, about),) = told
    assert (sender.name, about["task_id"], about["args"]) == ("suspect", "s", [1])
    assert isinstance(about["exception"], TimeLimitExceeded)
    assert "TimeLimitExceeded" in about["einfo"].traceback
    assert app.client.transport.depth("errors").ready == 1
    assert app.client.transport.depth("celery").ready == 0
    assert list(app.client.transport.dead_letters()) == []


def test_word_that_it_was_ended_on_request_makes_it_revoked_and_not_failed(app: App, child_of: Make) -> None:
    with failures_heard() as told:
        ran, telling, result = run(app, child_of, notes=(b'{"verdict":"terminated","cause":"SIGTERM"}',))
    assert (ran, telling.started, told) == ([], 0, [])
    assert (result.status, result.result["exc_message"]) == ("REVOKED", ["terminated"])
    assert app.client.transport.depth("errors").ready == 0
    assert app.client.transport.depth("celery").ready == 0


@pytest.mark.parametrize(("task_id", "pid", "running"), [("s", 0, 1), ("s", 7, 0), ("other", 7, 1)])
def test_what_another_child_does_not_run_is_no_hindrance(
    app: App, child_of: Make, task_id: str, pid: int, running: int
) -> None:
    ran, _telling, result = run(app, child_of, board=board_with(task_id, pid, running))
    assert (ran, result.status) == ([1], "SUCCESS")


def test_a_suspect_that_another_child_still_runs_comes_again_later(app: App, child_of: Make) -> None:
    ran, telling, result = run(app, child_of, board=board_with("s", 7, 1))
    assert (ran, telling.started, result) == ([], 0, None)
    assert app.client.transport.depth("celery").delayed == 1


def board_with(task_id: str, pid: int, running: int) -> Scoreboard:
    """A scoreboard on which the child beside the one of a test shows this."""
    board = Scoreboard()
    board.words[S_HIGH_SLOT] = 2
    beside = board.slot(1)
    beside.clear(1)
    beside.words[S_PID], beside.words[C_RUNNING] = pid, running
    beside.write_texts(task_id.encode(), b"suspect", b"tag")
    return board


def test_what_was_held_too_long_twice_is_a_dead_letter(app: App, child_of: Make) -> None:
    with failures_heard() as told:
        ran, _telling, result = run(app, child_of, notes=(b'{"verdict":"consumer_timeout","cause":"long"}',))
    assert (ran, result.status) == ([], "FAILURE")
    assert [str(about["exception"]) for _, about in told] == ["long"]
    (letter,) = app.client.transport.dead_letters()
    assert (letter.reason, letter.causes) == ("consumer-timeout", ("long",))


def test_one_crash_too_many_is_a_dead_letter_and_error_callbacks_are_sent(app: App, child_of: Make) -> None:
    with failures_heard() as told:
        ran, _telling, result = run(app, child_of, crashes=3)
    assert (ran, result.status, result.result["exc_type"]) == ([], "FAILURE", "WorkerLostError")
    ((sender, about),) = told
    assert (sender.name, about["task_id"], about["args"]) == ("suspect", "s", [1])
    assert isinstance(about["exception"], WorkerLostError)
    (letter,) = app.client.transport.dead_letters()
    assert letter.reason == REASON_CRASHES
    assert app.client.transport.depth("errors").ready == 1


@pytest.mark.parametrize(
    "options", [{"compression": "zlib"}, {"serializer": "pickle"}, {"headers": {"x": "y" * (1 << 20)}}]
)
def test_arguments_that_may_be_what_kills_are_not_read_for_error_callbacks(
    child_of: Make, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    with memory_app(accept_content=["json", "pickle"]) as app:
        with failures_heard() as told:
            ran, _telling, result = run(app, child_of, crashes=3, **options)
        assert (ran, result.status) == ([], "FAILURE")
        assert [(about["task_id"], about["args"]) for _, about in told] == [("s", [])]
        assert len(list(app.client.transport.dead_letters())) == 1
        assert app.client.transport.depth("errors").ready == 0
    assert "without calling its error callbacks" in caplog.text


def test_a_crash_too_many_of_an_ignored_result_is_not_stored(app: App, child_of: Make) -> None:
    _ran, _telling, result = run(app, child_of, crashes=3, ignore_result=True)
    assert result is None


def test_while_the_broker_is_away_it_is_asked_again(app: App, child_of: Make) -> None:
    away = BrokerUnavailable("away")
    ran, _telling, result = run(app, child_of, notes=(away, away, None))
    assert (ran, result.status) == ([1], "SUCCESS")


@pytest.mark.parametrize("crashes", [0, 2])
def test_below_the_limit_it_runs(app: App, child_of: Make, crashes: int) -> None:
    assert run(app, child_of, crashes=crashes)[0] == [1]


REST = [{"task": "later", "options": {"task_id": "later"}}]


@pytest.mark.parametrize(
    ("options", "state"),
    [({}, "FAILURE"), ({"serializer": "pickle"}, "PENDING"), ({"compression": "zlib"}, "PENDING")],
)
def test_what_was_to_follow_a_suspect_ends_with_it_if_reading_it_is_harmless(
    app: App, child_of: Make, options: dict[str, Any], state: str
) -> None:
    app.conf.update(task_max_crashes=2, accept_content=["json", "pickle"])
    _, _, result = run(app, child_of, crashes=2, chain=REST, **options)
    assert (result.status, app.AsyncResult("later").state) == ("FAILURE", state)


@pytest.mark.parametrize(("verdict", "state"), [("terminated", "REVOKED"), ("crash", "FAILURE")])
def test_word_of_its_end_holds_for_what_was_to_follow_a_suspect(
    app: App, child_of: Make, verdict: str, state: str
) -> None:
    _, _, result = run(app, child_of, notes=(b'{"verdict":"%s"}' % verdict.encode(),), chain=REST)
    assert (result.status, app.AsyncResult("later").state) == (state, state)
