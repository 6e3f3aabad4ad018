"""A worker in a thread: the real pipeline, ready when the block begins, gone when it ends."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.engine import App, signals
from prefork.engine.child.solo import Solo
from prefork.engine.embed import WorkerBootError, WorkerError
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.local import apps
from prefork.engine.testing import ThreadWorker, WorkerStuck, start_worker, temporary_app
from support.waiting import eventually


@pytest.fixture
def app() -> Iterator[App]:
    with temporary_app() as made:
        yield made


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_tasks_run_in_a_thread_of_this_process_and_answer(app: App) -> None:
    @app.task
    def where(x: int) -> tuple[int, int, str]:
        return x + 1, os.getpid(), threading.current_thread().name

    with start_worker(app) as worker:
        assert where.delay(1).get(timeout=10) == [2, os.getpid(), "prefork-worker"]
        assert worker.alive
    assert not worker.alive


def test_retries_delays_and_callbacks_go_through_the_broker(app: App) -> None:
    seen: list[object] = []

    @app.task(bind=True, max_retries=2)
    def flaky(self: object) -> int:
        if self.request.retries < 2:  # type: ignore[attr-defined]
            raise self.retry(countdown=0.05)  # type: ignore[attr-defined]
        return self.request.retries  # type: ignore[attr-defined, no-any-return]

    @app.task
    def note(value: object) -> None:
        seen.append(value)

    with start_worker(app):
        assert flaky.apply_async(link=note.s()).get(timeout=10) == 2
        eventually(lambda: seen == [2])


def test_it_works_on_the_embedded_broker_too(tmp_path: Path) -> None:
    with temporary_app(broker=f"filesystem://{tmp_path}/broker") as app:

        @app.task
        def double(x: int) -> int:
            return 2 * x

        with start_worker(app):
            assert [double.delay(i).get(timeout=10) for i in range(5)] == [0, 2, 4, 6, 8]
        assert app.client.transport.depth("celery").in_work == 0


def test_what_waits_when_the_block_ends_stays_in_the_broker(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    leave = Solo.leave

    def told_to_leave(solo: Solo) -> None:
        leave(solo)
        go_on.set()

    monkeypatch.setattr(Solo, "leave", told_to_leave)

    @app.task
    def held() -> str:
        began.set()
        go_on.wait(10)
        return "done"

    with start_worker(app):
        result = held.delay()
        assert began.wait(10)
        held.delay()
    assert result.get(timeout=0) == "done"
    assert app.client.transport.depth("celery").ready == 1


def test_draining_waits_for_what_is_ready_and_in_work(app: App) -> None:
    done: list[int] = []

    @app.task
    def note(i: int) -> None:
        done.append(i)

    with start_worker(app) as worker:
        for i in range(50):
            note.delay(i)
        worker.drain()
        assert done == list(range(50))


def test_draining_waits_for_what_is_delayed_unless_told_otherwise(app: App) -> None:
    @app.task
    def name() -> None:
        return None

    with start_worker(app) as worker:
        soon = name.apply_async(countdown=0.2)
        worker.drain()
        assert soon.state == "SUCCESS"
        later = name.apply_async(countdown=60)
        worker.drain(delayed=False)
        assert later.state == "PENDING"


def test_draining_says_what_it_waits_for(app: App) -> None:
    go_on = threading.Event()

    @app.task
    def held() -> None:
        go_on.wait(10)

    with start_worker(app) as worker:
        held.delay()
        with pytest.raises(TimeoutError, match="celery: 0 ready, 1 in work|celery: 1 ready"):
            worker.drain(0.2)
        go_on.set()
    held.delay()
    with pytest.raises(WorkerError, match="has ended"):
        worker.drain()


def test_an_endless_task_is_interrupted_and_given_back(app: App) -> None:
    began = threading.Event()

    @app.task
    def endless() -> None:
        began.set()
        while True:
            time.sleep(0.005)

    with start_worker(app, shutdown_timeout=0.1) as worker:
        endless.delay()
        assert began.wait(10)
    assert not worker.alive
    assert app.client.transport.depth("celery").ready == 1


def test_a_task_that_cannot_be_interrupted_is_named_with_its_stack(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.engine.testing.worker._INTERRUPTED_S", 0.1)
    began = threading.Event()

    class Gate(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            began.set()  # here, so that the stack shows the call, however late the next line is
            return super().wait(timeout)

    go_on = Gate()

    @app.task(name="stuck.one")
    def stuck() -> None:
        go_on.wait(10)

    worker = ThreadWorker(app).start()
    result = stuck.delay()
    assert began.wait(10)
    with pytest.raises(WorkerStuck, match=r"(?s)stuck\.one\[.*go_on\.wait\(10\)") as raised:
        worker.stop(0.1)
    assert raised.value.task == (result.id, "stuck.one")
    go_on.set()
    eventually(lambda: not worker.alive)


def test_it_leaves_signals_titles_and_logging_of_the_process_alone(app: App) -> None:
    before = (
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        Path("/proc/self/cmdline").read_bytes(),
    )

    @app.task
    def nothing() -> None:
        return None

    with start_worker(app):
        nothing.delay().get(timeout=10)
        now = (
            signal.getsignal(signal.SIGTERM),
            signal.getsignal(signal.SIGINT),
            Path("/proc/self/cmdline").read_bytes(),
        )
        assert now == before


def test_workers_come_and_go_without_a_trace(app: App) -> None:
    @app.task
    def nothing() -> None:
        return None

    def once() -> None:
        with start_worker(app):
            nothing.delay().get(timeout=10)

    once()
    gc.collect()  # a scoreboard's descriptors are closed with it
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    for _ in range(20):
        once()
    gc.collect()
    # What others have left to end by itself may do so meanwhile.
    assert open_descriptors() - descriptors == set()
    assert set(threading.enumerate()) - threads == set()


def test_the_signals_of_a_worker_are_sent(app: App) -> None:
    seen: list[str] = []

    def note(name: str) -> object:
        return lambda **_: seen.append(name)

    names = (
        "worker_init",
        "worker_process_init",
        "worker_ready",
        "worker_process_shutdown",
        "worker_shutdown",
    )
    receivers = [(getattr(signals, name), note(name)) for name in names]
    for sent, receiver in receivers:
        sent.connect(receiver, weak=False)
    try:
        with start_worker(app):
            pass
    finally:
        for sent, receiver in receivers:
            sent.disconnect(receiver)
    assert tuple(seen) == names


def test_a_worker_that_cannot_start_says_why(app: App) -> None:
    app.conf.imports = ["no_such_module_anywhere"]
    with pytest.raises(WorkerBootError, match="no_such_module_anywhere") as raised, start_worker(app):
        pass
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_only_the_queues_that_are_named_are_served(app: App) -> None:
    @app.task
    def name() -> str:
        return "ran"

    with start_worker(app, queues="one,two") as worker:
        served = name.apply_async(queue="two")
        other = name.apply_async(queue="three")
        assert served.get(timeout=10) == "ran"
        worker.drain()
        assert app.client.transport.depth("three").ready == 1
        assert other.state == "PENDING"
    with start_worker(app, queues=["three"], exclude_queues=["two"]):
        assert other.get(timeout=10) == "ran"


def test_stopping_twice_is_harmless_and_a_worker_that_died_says_so(app: App) -> None:
    worker = ThreadWorker(app).start()
    worker.stop()
    worker.stop()

    @app.task
    def nothing() -> None:
        return None

    broken = ThreadWorker(app).start()

    def boom(**_: object) -> None:
        raise SystemExit(3)

    signals.worker_process_shutdown.connect(boom, weak=False)
    try:
        with pytest.raises(WorkerError, match="SystemExit"):
            broken.stop()
    finally:
        signals.worker_process_shutdown.disconnect(boom)


def test_an_unknown_pool_is_refused(app: App) -> None:
    with pytest.raises(ValueError, match="'solo'.*'prefork'"), start_worker(app, pool="eventlet"):
        pass


def test_processes_need_an_app_that_can_be_imported(app: App) -> None:
    with pytest.raises(ImproperlyConfigured), start_worker(app, pool="prefork"):
        pass


def test_an_app_for_tests_is_current_only_within_its_block() -> None:
    before = (apps.current, apps.default)
    with temporary_app("named", config={"task_track_started": True}) as app:
        assert (apps.current, apps.default) == (app, app)
        assert app.conf.task_track_started
        assert str(app.conf.broker_url).startswith("memory://test-")
    assert (apps.current, apps.default) == before
    with temporary_app(set_as_current=False):
        assert apps.current is before[0]


def test_two_apps_for_tests_share_nothing() -> None:
    with temporary_app() as one, temporary_app() as other:
        one.send_task("x")
        assert one.client.transport.depth("celery").ready == 1
        assert other.client.transport.depth("celery").ready == 0
