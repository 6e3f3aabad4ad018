"""What follows a coroutine that ran beside others, while the broker is away that must be asked for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine import chain, group
from prefork.engine.app import App
from prefork.engine.child.async_follow_ups import is_unique_among
from prefork.engine.child.trial import Interrupted
from prefork.engine.exceptions import DuplicateTaskError
from prefork.engine.scoreboard import C_HARD_NS, C_RUNNING, S_STOP, Stop
from prefork.transports.errors import BrokerUnavailable
from support.faulty import Faulty
from support.one_async_child import Side, eventually_on_loop
from support.one_child import OneChild

SideOf = Callable[..., Side]


@pytest.fixture
def broker(app: App) -> Faulty:
    """The broker of the app, whose locks can be taken away."""
    app.conf.task_publish_retry = False
    faulty = Faulty(app.client.transport)
    app.client.adopt(faulty, app.client.results)
    return faulty


@pytest.fixture
def scene(app: App, broker: Faulty, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tasks `first` (a coroutine) and `second` (a unique one); returns what was run."""
    ran: list[Any] = []
    monkeypatch.setattr("prefork.engine.child.async_follow_ups.AGAIN_S", 0.02)

    @app.task(name="first", time_limit=30)
    async def first(value: Any) -> Any:
        await asyncio.sleep(0)
        ran.append(("first", value))
        return value

    @app.task(name="second", unique=True)
    async def second(value: Any) -> None:
        ran.append(("second", value))

    return ran


@pytest.mark.parametrize("times", [1, 3])
def test_what_follows_waits_and_neighbours_go_on(
    app: App, side_of: SideOf, broker: Faulty, scene: list[Any], times: int, caplog: pytest.LogCaptureFixture
) -> None:
    at_the_broker = threading.Event()
    seen: list[Any] = []

    def away() -> Exception:
        seen.append(threading.current_thread().name.startswith("prefork-send"))
        if len(seen) == 1:
            assert at_the_broker.wait(5), "the neighbour stood still"
        return BrokerUnavailable("away")

    @app.task
    async def neighbour() -> None:
        await eventually_on_loop(lambda: bool(seen))
        seen_limits.append((side.words[C_RUNNING] != 0, side.words[C_HARD_NS]))
        at_the_broker.set()

    seen_limits: list[tuple[bool, int]] = []
    result = app.tasks["first"].apply_async((1,), link=app.signature("second"))
    beside = neighbour.delay()
    broker.fail("lock", times, away)
    side = side_of()
    assert side.run() == 0
    beside.get(timeout=5)
    assert result.get(timeout=5) == 1
    assert scene == [("first", 1), ("second", 1)]
    assert seen == [True] * times
    assert seen_limits == [(True, 0)], "the limit of one that has ended was still enforced"
    assert caplog.text.count("what follows waits for the broker") == 1


def test_one_that_nobody_expected_to_ask_waits_as_well(
    app: App, side_of: SideOf, broker: Faulty, scene: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.engine.child.async_follow_ups.is_unique_among", lambda *_: False)
    result = app.tasks["first"].apply_async((1,), link=app.signature("second"))
    broker.fail("lock", 2)
    assert side_of().run() == 0
    assert result.get(timeout=5) == 1
    assert scene == [("first", 1), ("second", 1)]


@pytest.mark.parametrize("times", [0, 2])
def test_a_step_that_is_not_sent_as_it_is_not_unique_has_failed(
    app: App, side_of: SideOf, broker: Faulty, scene: list[Any], times: int, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = app.tasks["first"], app.tasks["second"]
    running = second.apply_async((1,), queue="elsewhere")
    result = (first.s(1) | second.s() | first.s()).delay()
    broker.fail("lock", times)
    assert side_of().run() == 0
    for step in (result, result.parent):
        with pytest.raises(DuplicateTaskError) as raised:
            step.get(timeout=5, follow_parents=False)
        assert raised.value.existing_id == running.id
    assert result.parent.parent.get(timeout=5) == 1
    assert caplog.text.count(f"second[{result.parent.id}] is not sent, as {running.id} has the same key") == 1


def test_what_ran_alone_waits_where_it_is(
    app: App, side_of: SideOf, broker: Faulty, scene: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.engine.child.following.AGAIN_S", 0.01)
    app.task(name="plain")(lambda: 1)
    result = app.tasks["plain"].apply_async(link=app.signature("second"))
    broker.fail("lock", 2)
    assert side_of().run() == 0
    assert result.get(timeout=5) == 1
    assert scene == [("second", 1)]


@pytest.mark.parametrize("how", ["leaves", "taken over"])
def test_a_worker_that_leaves_meanwhile_gives_the_message_back(
    app: App, side_of: SideOf, broker: Faulty, scene: list[Any], how: str
) -> None:
    def away() -> Exception:
        if how == "leaves":
            side.words[S_STOP] = Stop.LEAVE
        else:
            side.loop.interrupt(Interrupted("taken over"))
        return BrokerUnavailable("away")

    result = app.tasks["first"].apply_async((1,), link=app.signature("second"))
    broker.fail("lock", 1, away)
    side = side_of()
    assert side.run() == 0
    if how == "leaves":
        assert result.state == "PENDING"
        side.words[S_STOP] = Stop.RUN
        again = side_of()
        assert again.run() == 0
    assert result.get(timeout=5) == 1
    assert scene == [("first", 1), ("first", 1), ("second", 1)]


def test_a_child_that_runs_one_at_a_time_gives_it_back_as_well(
    app: App, child_of: Callable[..., OneChild], broker: Faulty, scene: list[Any]
) -> None:
    def away() -> Exception:
        child.words[S_STOP] = Stop.LEAVE
        return BrokerUnavailable("away")

    result = app.tasks["first"].apply_async((1,), link=app.signature("second"))
    broker.fail("lock", 1, away)
    child = child_of(app)
    assert (child.run(), result.state) == (0, "PENDING")
    assert child.run() == 0
    assert result.get(timeout=5) == 1
    assert scene == [("first", 1), ("first", 1), ("second", 1)]


def test_what_cannot_be_sent_is_the_failure_of_the_task(
    app: App, side_of: SideOf, broker: Faulty, scene: list[Any]
) -> None:
    def refuses() -> Exception:
        return LookupError("never")

    result = app.tasks["first"].apply_async((1,), link=app.signature("second"))
    broker.fail("lock", 1, refuses)
    assert side_of().run() == 0
    assert isinstance(result.result, LookupError)
    assert scene == [("first", 1)]


def test_unique_ones_are_found_wherever_they_are(app: App, scene: list[Any]) -> None:
    first, second = app.tasks["first"].s(1), app.tasks["second"].s(1)
    unnamed = app.signature("elsewhere", options={"unique": True})
    for signature in (
        second,
        group(first, second),
        chain(first, group(first, second)),
        unnamed,
        dict(second),
    ):
        assert is_unique_among(app, [first, signature])
    deep: dict[str, Any] = dict(second)
    for _ in range(30):
        deep = {"task": "x", "kwargs": {"tasks": [deep]}}
    for signature in (first, second.set(unique=False), group(first, first), "none", {"kwargs": 3}, deep):
        assert not is_unique_among(app, [signature])
