"""A child to which the broker pushes while it runs: what nobody was handed never waits behind a long task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.child.async_loop import AsyncLoop
from prefork.engine.child.loop import EXIT_AS_TOLD
from prefork.engine.child.readahead import SAMPLES_MIN, SHORT_S
from prefork.engine.scoreboard import BATCH_MAX, C_CURSOR, C_HELD, S_PAUSED, S_STOP, Stop
from prefork.transports.base import Delivery, Streams
from support.one_child import OneChild

Make = Callable[..., OneChild]


class Pushing:
    """A consumer to which something is pushed with each batch, until something is given back."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.allowed = 0
        self.streaming = False
        self.asked: list[int] = []
        self.given_back: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def allow_streaming(self) -> None:
        self.allowed += 1

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        self.asked.append(max_n)
        found: list[Delivery] = self._consumer.reserve(max_n, timeout_s)
        self.streaming = bool(found)
        return found

    def give_back(self, tags: Sequence[bytes]) -> int:
        self.streaming = False
        self.given_back.append(len(tags))
        returned: int = self._consumer.give_back(tags)
        return returned


def pushed_to(child: OneChild, *short: str, limit: int = 3) -> Pushing:
    for name in short:
        kind = child.parts.read_ahead.kind(name)
        for _ in range(SAMPLES_MIN):
            kind.add(0.0001)
    child.parts.read_ahead._limit = limit
    child.parts.consumer = pushing = Pushing(child.parts.consumer)  # type: ignore[assignment]
    assert isinstance(pushing, Streams)
    return pushing


@pytest.fixture
def seen(app: App, child_of: Make) -> list[tuple[int, int]]:
    """C_CURSOR and C_HELD while each task of the name "short" ran."""
    found: list[tuple[int, int]] = []

    @app.task(name="short")
    def short() -> None:
        words = found_in[0].words
        found.append((words[C_CURSOR], words[C_HELD]))

    found_in: list[OneChild] = []
    app.found_in = found_in
    return found


def test_one_more_than_the_batch_is_announced_so_that_the_last_can_be_recalled_from_too(
    app: App, child_of: Make, seen: list[tuple[int, int]]
) -> None:
    child = child_of(app)
    app.found_in.append(child)
    pushing = pushed_to(child, "short")
    for _ in range(3):
        app.send_task("short")
    assert child.run(stream=True) == EXIT_AS_TOLD
    assert seen == [(1, 4), (2, 4), (3, 4)]
    assert pushing.given_back == [], "as long as all are short"


def test_where_nobody_recalls_nothing_is_pushed(
    app: App, child_of: Make, seen: list[tuple[int, int]]
) -> None:
    child = child_of(app)
    app.found_in.append(child)
    pushing = pushed_to(child, "short")
    for _ in range(3):
        app.send_task("short")
    child.run()
    assert pushing.allowed == 0
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_before_a_task_that_is_not_known_to_be_short_what_was_pushed_goes_back(
    app: App, child_of: Make
) -> None:
    child = child_of(app)
    pushing = pushed_to(child)
    while_it_ran: list[tuple[bool, int]] = []

    @app.task(name="new")
    def new() -> None:
        while_it_ran.append((pushing.streaming, child.words[C_HELD]))

    # Given the only one, and so the last one, of its batch
    app.send_task("new")
    child.run(stream=True)
    assert while_it_ran == [(False, 1)]
    assert pushing.given_back == [0]


def test_a_paused_child_and_one_that_has_done_its_share_keep_nothing(app: App, child_of: Make) -> None:
    @app.task(name="pausing")
    def pausing() -> None:
        child.board.words[S_PAUSED] = 1

    child = child_of(app)
    pushing = pushed_to(child, "pausing")
    app.send_task("pausing")
    child.run(stream=True)
    assert pushing.given_back == [0]

    child.board.words[S_PAUSED] = 0
    retiring = child_of(app, max_tasks_per_child=1)
    pushing = pushed_to(retiring, "quick")

    @app.task(name="quick")
    def quick() -> None:
        """Counts."""

    app.send_task("quick")
    retiring.run(stream=True)
    assert pushing.asked[0] == 1
    assert pushing.given_back == [0]


def test_there_is_always_room_for_the_one_that_is_announced(app: App, child_of: Make) -> None:
    child = child_of(app)
    pushing = pushed_to(child, limit=BATCH_MAX)
    child.run(stream=True)
    assert pushing.asked[0] == BATCH_MAX - 1


def test_a_child_that_is_told_to_leave_gives_the_rest_of_its_batch_back(app: App, child_of: Make) -> None:
    child = child_of(app)
    pushing = pushed_to(child, "leaving")

    @app.task(name="leaving")
    def leaving() -> None:
        child.words[S_STOP] = Stop.LEAVE

    for _ in range(3):
        app.send_task("leaving")
    assert child.run(stream=True) == EXIT_AS_TOLD
    assert pushing.given_back == [2]


def test_what_was_thought_to_be_short_and_is_not_ends_it_from_then_on(app: App, child_of: Make) -> None:
    child = child_of(app)
    pushing = pushed_to(child, "sometimes", limit=1)

    @app.task(name="sometimes")
    def sometimes(seconds: float) -> None:
        time.sleep(seconds)  # the run itself is what is long

    app.send_task("sometimes", (3 * SHORT_S,))
    app.send_task("sometimes", (0.0,))
    child.run(stream=True)
    # The first one was announced with one more, for the supervisor; before the second all went back.
    assert pushing.given_back == [0]
    assert pushing.asked[:2] == [1, 1]


def test_nothing_is_pushed_to_a_child_that_runs_coroutines(side_of: Callable[..., Any]) -> None:
    side = side_of()
    pushing = pushed_to(side.child)
    AsyncLoop.stream(side.loop)
    assert pushing.allowed == 0
