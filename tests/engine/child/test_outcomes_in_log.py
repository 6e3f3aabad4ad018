"""What the log says of the end of an attempt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import Reject, Retry
from support.one_child import OneChild

Make = Callable[..., OneChild]


def test_log_lines_have_the_words_that_parsers_know(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(throws=(KeyError,))
    def work(what):
        if what == "expected":
            raise KeyError(what)
        if what == "unexpected":
            raise ValueError(what)
        return what

    with caplog.at_level("INFO"):
        for what in ("expected", "unexpected", "fine"):
            work.delay(what)
        child_of(app).run()
    levels = {record.levelname: record.getMessage() for record in caplog.records if "Task" in record.msg}
    assert "raised unexpected: ValueError('unexpected')" in levels["ERROR"]
    assert "raised expected: KeyError('expected')" in caplog.text
    assert "succeeded in" in caplog.text


def lines_of(caplog: pytest.LogCaptureFixture, task_id: str) -> list[tuple[str, str]]:
    """Level and words of what was said about the end of an attempt, without name and id."""
    ends = [record for record in caplog.records if record.name == "celery.app.trace"]
    found = [(record.levelname, record.getMessage()) for record in ends if task_id in record.getMessage()]
    return [(level, text.partition(f"[{task_id}] ")[2]) for level, text in found]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"countdown": 60}, "retry: Retry in 60s"),
        ({"countdown": 0.5, "exc": KeyError("busy")}, "retry: Retry in 0.5s: KeyError('busy')"),
        ({"eta": datetime(2100, 1, 1, tzinfo=timezone.utc)}, "retry: Retry at 2100-01-01 00:00:00+00:00"),
    ],
)
def test_the_log_says_when_a_task_is_retried_and_why(
    app: App,
    child_of: Make,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    words: str,
) -> None:
    @app.task(bind=True)
    def again(self):
        self.retry(**options)

    with caplog.at_level("INFO"):
        result = again.delay()
        child_of(app).run()
    assert lines_of(caplog, result.id)[0] == ("INFO", words)


class Mute(Retry):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Retry(ValueError("slip")), "retry: slip"),  # type: ignore[arg-type]
        (Retry({"a": 1}), "retry: {'a': 1}"),  # type: ignore[arg-type]
        (Mute(), "retry: Retry without a text: RuntimeError('no words')"),
    ],
)
def test_whatever_a_task_puts_into_a_retry_ends_nobody(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture, decision: Retry, words: str
) -> None:
    @app.task
    def slips():
        raise decision

    @app.task
    def fine():
        return 1

    with caplog.at_level("INFO"):
        result, other = slips.delay(), fine.delay()
        child_of(app).run()
    assert lines_of(caplog, result.id) == [("INFO", words)]
    assert other.get(timeout=5) == 1


def test_the_log_says_of_a_rejected_task_what_the_task_said_and_calls_it_no_error(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[bool] = []

    @app.task
    def refuses(requeue):
        tries.append(requeue)
        raise Reject("nope", requeue=requeue and len(tries) == 1)

    with caplog.at_level("INFO"):
        result = refuses.delay(True)
        child_of(app).run()
    assert lines_of(caplog, result.id) == [
        ("WARNING", "rejected, back to its queue: 'nope'"),
        ("WARNING", "rejected: 'nope'"),
    ]
