"""The worker loop of a child: batches, limits of all kinds, who is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from setproctitle import getproctitle

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.child.loop import EXIT_AS_TOLD
from prefork.engine.child.readahead import SAMPLES_MIN
from prefork.engine.scoreboard import (
    C_BODY,
    C_EXECUTIONS,
    C_HARD_LIMIT_MS,
    C_HARD_NS,
    C_HELD,
    C_RUNNING,
    C_SOFT_NS,
    C_START_NS,
    C_STATE,
    S_PAUSED,
    S_STOP,
    State,
    Stop,
)
from prefork.engine.task_context import current
from prefork.transports.base import Outgoing
from support.loop_scene import depth, faulty_consumer, known_to_be_short
from support.one_child import OneChild

Make = Callable[..., OneChild]


def test_a_child_runs_what_waits_and_says_so(app: App, child_of: Make) -> None:
    @app.task
    def add(x, y):
        return x + y

    results = [add.delay(n, 1) for n in range(30)]
    child = child_of(app)
    assert child.run() == EXIT_AS_TOLD
    assert [result.get(timeout=1) for result in results] == [n + 1 for n in range(30)]
    assert child.words[C_EXECUTIONS] == 30
    assert (child.words[C_RUNNING], child.words[C_BODY], child.words[C_HELD]) == (0, 0, 0)
    assert child.words[C_STATE] == State.IDLE


def test_the_number_of_tasks_of_a_child_is_kept_exactly(app: App, child_of: Make) -> None:
    @app.task
    def nothing():
        return None

    for _ in range(50):
        nothing.delay()
    child = child_of(app, max_tasks_per_child=7)
    known_to_be_short(child, nothing.name, 5)
    child.run()
    assert child.words[C_EXECUTIONS] == 7
    assert child.words[C_STATE] == State.RETIRING
    assert depth(app) == (43, 0, 0)


def test_running_out_of_memory_has_the_child_replaced_after_that_task(app: App, child_of: Make) -> None:
    @app.task
    def hungry(n):
        if n == 1:
            raise MemoryError
        return n

    results = [hungry.delay(n) for n in range(5)]
    child = child_of(app)
    known_to_be_short(child, hungry.name, 4)
    child.run()
    assert child.words[C_STATE] == State.RETIRING
    assert (results[0].state, results[1].state) == ("SUCCESS", "FAILURE")
    assert depth(app) == (3, 0, 0), "what it had not started went back"


def test_a_worker_of_one_process_goes_on_after_running_out_of_memory(app: App, child_of: Make) -> None:
    @app.task
    def hungry():
        raise MemoryError

    hungry.delay()
    hungry.delay()
    child_of(app, replaceable=False, max_tasks_per_child=1).run()
    assert depth(app) == (0, 0, 0)


def test_messages_of_one_queue_are_reserved_ahead_only_when_they_are_known_to_be_short(
    app: App, child_of: Make
) -> None:
    held: list[int] = []

    @app.task
    def look():
        held.append(child.words[C_HELD])

    for _ in range(SAMPLES_MIN + 10):
        look.delay()
    child = child_of(app)
    child.run()
    assert set(held[:SAMPLES_MIN]) == {1}
    assert max(held) > 1


@pytest.mark.parametrize("settings", [{"worker_disable_prefetch": True}, {"worker_prefetch_multiplier": 1}])
def test_read_ahead_can_be_turned_off(settings: dict[str, Any], app: App, child_of: Make) -> None:
    app.conf.update(settings)
    held: list[int] = []

    @app.task
    def look():
        held.append(child.words[C_HELD])

    for _ in range(60):
        look.delay()
    child = child_of(app)
    child.run()
    assert set(held) == {1}


def test_no_setting_lets_a_child_hold_more_than_the_scoreboard_has_room_for(app: App, child_of: Make) -> None:
    app.conf.worker_read_ahead_max = 100_000
    child = child_of(app)
    child.parts.read_ahead._limit = 1 << 20
    child.parts.read_ahead.batch_done(1, True, 0.0)
    assert child.parts.read_ahead.limit() == 256


def test_messages_that_do_not_run_are_passed_over_in_large_batches(app: App, child_of: Make) -> None:
    @app.task
    def later():
        return None

    transport = app.client.transport
    with app.client.collecting() as messages:
        for _ in range(200):
            later.apply_async(countdown=3600)
    transport.send([Outgoing(one.queue, one.document) for one in messages])  # as Celery's clients send them
    child = child_of(app)
    sizes: list[int] = []
    consumer = faulty_consumer(child)
    reserve = consumer.reserve

    def noted(max_n: int, timeout_s: float = 0.0) -> Any:
        taken = reserve(max_n, timeout_s)
        sizes.append(len(taken))
        return taken

    consumer.reserve = noted  # type: ignore[method-assign]
    child.run()
    assert depth(app) == (0, 200, 0)
    assert sizes[:5] == [1, 2, 4, 8, 16]


def test_messages_behind_a_long_one_are_given_back_before_it_starts(app: App, child_of: Make) -> None:
    seen: list[tuple[int, int, int]] = []

    @app.task
    def short():
        return None

    @app.task
    def unknown_length():
        seen.append(depth(app))

    for task in (short, unknown_length, short, short):
        task.delay()
    child = child_of(app)
    known_to_be_short(child, short.name, 4)
    child.run()
    assert seen == [(2, 0, 1)], "the finished one is settled, the others are back"
    assert depth(app) == (0, 0, 0)


def test_a_child_that_is_told_to_leave_finishes_its_task_and_gives_back_the_rest(
    app: App, child_of: Make
) -> None:
    @app.task
    def leave():
        child.words[S_STOP] = Stop.LEAVE

    results = [leave.delay() for _ in range(3)]
    child = child_of(app)
    known_to_be_short(child, leave.name, 3)
    assert child.run() == EXIT_AS_TOLD
    assert results[0].state == "SUCCESS"
    assert depth(app) == (2, 0, 0)


def test_a_paused_worker_reserves_nothing(app: App, child_of: Make) -> None:
    @app.task
    def nothing():
        return None

    nothing.delay()
    child = child_of(app)
    child.board.words[S_PAUSED] = 1
    child.run()
    assert depth(app) == (1, 0, 0)


def test_limits_are_on_the_scoreboard_while_the_task_runs(app: App, child_of: Make) -> None:
    seen: list[tuple[float, float, int]] = []

    @app.task(soft_time_limit=2, time_limit=3.5)
    def look():
        words = child.words
        start = words[C_START_NS]
        soft_s, hard_s = (words[C_SOFT_NS] - start) / 1e9, (words[C_HARD_NS] - start) / 1e9
        seen.append((soft_s, hard_s, words[C_HARD_LIMIT_MS]))

    look.delay()
    look.apply_async(soft_time_limit=1, time_limit=10)
    child = child_of(app)
    child.run()
    assert seen == [(2, 3.5, 3500), (1, 10, 10_000)]


def test_a_task_is_the_current_one_in_log_lines_while_it_runs(app: App, child_of: Make) -> None:
    seen: list[Any] = []

    @app.task
    def look():
        seen.append(current())

    result = look.delay()
    child_of(app).run()
    assert seen == [(result.id, look.name)]
    assert current() is None


def test_the_process_list_shows_a_task_that_may_be_long(app: App, child_of: Make) -> None:
    seen: list[str] = []

    @app.task
    def look():
        seen.append(getproctitle())

    look.delay()
    child_of(app).run()
    assert seen[0].endswith(look.name)
    assert getproctitle().endswith("idle")


def test_a_received_task_is_announced(app: App, child_of: Make) -> None:
    seen: list[Any] = []

    def receiver(sender, request, **_):
        seen.append((request.id, request.name, request.task, request.app, request.args))
        assert (sender.app, request.hostname) == (app, sender)

    @app.task
    def nothing(x):
        return None

    result = nothing.delay(7)
    signals.task_received.connect(receiver, weak=False)
    try:
        child_of(app).run()
    finally:
        signals.task_received.disconnect(receiver)
    assert seen == [(result.id, nothing.name, app.tasks[nothing.name], app, [7])]
