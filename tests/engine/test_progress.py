"""Progress: a state of a running task, stored often enough to be watched and no oftener."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import App, progress
from prefork.engine.exceptions import Ignore
from prefork.engine.progress_report import PROGRESS, Progress, Reporter, progress_of
from prefork.engine.testing import start_worker, temporary_app
from prefork.transports.errors import ResultStoreUnavailable
from support.waiting import eventually


class Store:
    """Keeps what a reporter stores, and when."""

    def __init__(self) -> None:
        self.metas: list[dict[str, Any]] = []
        self.moments_s: list[float] = []
        self.broken = False

    def __call__(self, meta: dict[str, Any]) -> None:
        if self.broken:
            raise ResultStoreUnavailable("away")
        self.metas.append(meta)
        self.moments_s.append(time.monotonic())


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def app() -> Iterator[App]:
    with temporary_app() as made:
        yield made


def test_the_first_is_stored_at_once_and_the_last_of_a_burst_after_the_interval(store: Store) -> None:
    reporter = Reporter(store, interval_s=0.05)
    for current in range(1000):
        reporter.say(Progress(current, 1000))
    assert store.metas[0] == {"current": 0, "total": 1000, "note": ""}
    eventually(lambda: store.metas[-1]["current"] == 999)
    reporter.close(stays=False)
    gaps_s = [later - earlier for earlier, later in zip(store.moments_s, store.moments_s[1:])]
    assert gaps_s and min(gaps_s) >= 0.05


def test_those_that_come_slowly_are_all_stored_and_need_no_thread(store: Store) -> None:
    reporter = Reporter(store, interval_s=0.0)
    for current in range(5):
        reporter.say(Progress(current))
    assert [meta["current"] for meta in store.metas] == [0, 1, 2, 3, 4]
    assert "prefork-progress" not in {thread.name for thread in threading.enumerate()}
    reporter.close(stays=False)


def test_nothing_is_stored_after_the_end(store: Store) -> None:
    reporter = Reporter(store, interval_s=60.0)
    reporter.say(Progress(1))
    reporter.say(Progress(2))
    reporter.close(stays=False)
    assert [meta["current"] for meta in store.metas] == [1]
    assert "prefork-progress" not in {thread.name for thread in threading.enumerate()}


def test_what_waits_is_stored_at_the_end_where_nothing_else_will_be(store: Store) -> None:
    reporter = Reporter(store, interval_s=60.0)
    reporter.say(Progress(1))
    reporter.say(Progress(2))
    reporter.close(stays=True)
    assert [meta["current"] for meta in store.metas] == [1, 2]


def test_a_store_that_is_away_is_told_of_once_and_the_task_goes_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.broken = True
    reporter = Reporter(store, interval_s=0.0)
    for current in range(3):
        reporter.say(Progress(current))
    reporter.close(stays=False)
    assert [record.getMessage() for record in caplog.records] == [
        "progress cannot be stored, and is not told of again: away"
    ]


@given(st.floats(allow_nan=False, allow_infinity=False), st.none() | st.integers(), st.text())
def test_what_is_stored_is_read_back(current: float, total: int | None, note: str) -> None:
    said = Progress(current, total, note)
    assert progress_of(PROGRESS, said.as_meta()) == said
    assert said.fraction is None or 0.0 <= said.fraction <= 1.0
    assert note in str(said)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.dictionaries(st.sampled_from(["current", "total", "note"]), inner),
    )
)
def test_a_meta_of_somebody_elses_is_no_error(meta: object) -> None:
    found = progress_of(PROGRESS, meta)
    assert found is None or isinstance(found, Progress)
    assert progress_of("STARTED", {"current": 1}) is None


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (Progress(3, 10, "copying"), "3/10 (30%): copying"),
        (Progress(3), "3"),
        (Progress(2.5, 0), "2.5/0"),
        (Progress(11, 10), "11/10 (100%)"),
    ],
)
def test_it_is_shown_in_few_words(said: Progress, shown: str) -> None:
    assert str(said) == shown


def test_progress_is_seen_while_the_task_runs_and_gone_when_it_has_ended(app: App) -> None:
    go_on = threading.Event()

    @app.task(bind=True)
    def copy(self: Any) -> str:
        for n in range(1, 8):
            self.progress(n, 10, note=f"file {n}")
        assert go_on.wait(20)
        progress(10, 10)
        return "copied"

    with start_worker(app):
        result = copy.delay()
        eventually(lambda: result.progress == Progress(7, 10, "file 7"))
        assert (result.state, result.info) == ("PROGRESS", {"current": 7, "total": 10, "note": "file 7"})
        go_on.set()
        assert result.get(timeout=10) == "copied"
        assert result.progress is None


def test_a_late_progress_never_takes_the_place_of_a_failure(app: App) -> None:
    @app.task
    def fails() -> None:
        progress(1)
        progress(2)
        raise ValueError("no")

    with start_worker(app) as worker:
        results = [fails.delay() for _ in range(30)]
        worker.drain()
        assert {result.state for result in results} == {"FAILURE"}


def test_the_last_word_of_a_task_that_is_ignored_stays(app: App) -> None:
    @app.task
    def gives_up() -> None:
        progress(1, 3)
        progress(2, 3)
        raise Ignore()

    with start_worker(app) as worker:
        result = gives_up.delay()
        worker.drain()
        assert result.progress == Progress(2, 3)


def test_nothing_happens_outside_of_a_task_or_in_a_plain_call(app: App) -> None:
    @app.task(bind=True)
    def task(self: Any) -> str:
        progress(1, 2)
        self.progress(2, 2)
        return "ran"

    progress(1)
    assert task() == "ran"


def test_nothing_is_stored_where_the_result_is_ignored(app: App) -> None:
    @app.task(ignore_result=True)
    def quiet() -> None:
        progress(1, 2)

    with start_worker(app) as worker:
        result = quiet.delay()
        worker.drain()
        assert not app.AsyncResult(result.id).exists()


@pytest.mark.parametrize(
    "bad", [{"current": "many"}, {"current": float("nan")}, {"current": 1, "total": True}]
)
def test_what_is_no_amount_is_refused(app: App, bad: dict[str, Any]) -> None:
    @app.task(bind=True)
    def task(self: Any) -> None:
        self.progress(**bad)

    with pytest.raises(ValueError, match=r"give a number"):
        task.apply(throw=True)
