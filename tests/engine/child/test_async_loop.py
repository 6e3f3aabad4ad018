"""The loop of a child that runs coroutines side by side: what others see of it, and its odd moments."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.async_execution import Stepped
from prefork.engine.child.async_loop import Room, runs_beside_others
from prefork.engine.child.trial import Interrupted
from prefork.engine.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from prefork.engine.revoked_board import A_ENDINGS
from prefork.engine.revoked_keys import ending_digest
from prefork.engine.scoreboard import (
    C_BODY,
    C_HARD_NS,
    C_OUTCOME_BYTES,
    C_POLICY,
    C_RUNNING,
    C_STATE,
    S_SOFT_TARGET,
    S_STOP,
    Policy,
    State,
    Stop,
)
from prefork.engine.settling import decode_outcome
from prefork.engine.shielding import shield
from prefork.transports.errors import BrokerUnavailable, OwnerLost
from support.one_async_child import Side, eventually_on_loop
from support.one_child import OneChild
from support.waiting import eventually


def shown(side: Side) -> tuple[str, bool, bool]:
    """What the slot shows: the task, whether it has a hard limit, whether its body runs."""
    name = side.child.slot.read_texts().task_name.rpartition(".")[2]
    return name, bool(side.words[C_HARD_NS]), bool(side.words[C_BODY])


def test_the_slot_shows_the_one_whose_hard_limit_is_over_first(
    app: App, side_of: Callable[..., Side]
) -> None:
    seen: list[tuple[str, bool, bool]] = []
    began: list[str] = []

    @app.task
    async def plain(release: str) -> None:
        began.append("plain")
        await eventually_on_loop(lambda: bool(seen) and shown(side)[0] == "plain")
        seen.append(shown(side))

    @app.task(time_limit=60)
    async def limited() -> None:
        await eventually_on_loop(lambda: bool(began))
        seen.append(shown(side))
        assert side.words[C_POLICY] & Policy.BESIDE
        assert side.words[C_STATE] in (State.HAS_ROOM, State.WORKING)

    plain.delay("")
    limited.delay()
    side = side_of()
    assert side.run() == 0
    assert seen == [("limited", True, True), ("plain", False, True)]
    assert (side.words[C_RUNNING], side.words[C_BODY], side.words[C_OUTCOME_BYTES]) == (0, 0, 0)


def test_what_ran_last_is_on_the_scoreboard(app: App, side_of: Callable[..., Side]) -> None:
    ran: list[bool] = []

    @app.task(bind=True)
    async def steps(self: Any) -> None:
        for _ in range(5):
            last = side.child.slot.read_last()
            delivery = side.child.parts.consumer.fetch(last)
            assert delivery is not None
            ran.append(self.request.id.encode() in delivery.document)
            await asyncio.sleep(0.001)

    for _ in range(3):
        steps.delay()
    side = side_of()
    assert side.run() == 0
    assert ran == [True] * 15


def test_no_more_run_than_there_is_room_for(app: App, side_of: Callable[..., Side]) -> None:
    running, most = [0], [0]

    @app.task
    async def count() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await eventually_on_loop(lambda: most[0] >= 3)
        await asyncio.sleep(0.002)
        running[0] -= 1

    for _ in range(40):
        count.delay()
    assert side_of(3).run() == 0
    assert most == [3]


def test_a_child_retires_when_its_last_one_has_ended(app: App, side_of: Callable[..., Side]) -> None:
    @app.task
    async def nap() -> None:
        await asyncio.sleep(0.01)

    for _ in range(9):
        nap.delay()
    side = side_of(4, max_tasks_per_child=6)

    def leave() -> None:
        eventually(lambda: side.words[C_STATE] == State.RETIRING)
        side.words[S_STOP] = Stop.LEAVE

    thread = threading.Thread(target=leave)
    thread.start()
    assert side.run() == 0
    thread.join()
    assert side.child.parts.executed == 6
    assert app.client.transport.depth("celery").ready == 3


def test_one_that_blocks_the_loop_is_interrupted_where_it_is(app: App, side_of: Callable[..., Side]) -> None:
    @app.task(soft_time_limit=0.1)
    async def blocks() -> None:
        time.sleep(60)

    @app.task
    async def other() -> str:
        await asyncio.sleep(0.05)
        return "undisturbed"

    blocked = blocks.delay()
    side = side_of()

    over = threading.Event()

    def supervise() -> None:
        eventually(lambda: side.words[C_BODY] != 0)
        side.words[S_SOFT_TARGET] = side.words[C_RUNNING]
        # Again and again, as the supervisor does: the first may find it before its first step.
        while not over.wait(0.2):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=supervise)
    thread.start()
    later = other.delay()
    try:
        assert side.run() == 0
    finally:
        over.set()  # else it signals this process when nobody handles that any more
        thread.join()
    with pytest.raises(SoftTimeLimitExceeded):
        blocked.get(timeout=5)
    assert later.get(timeout=5) == "undisturbed"


def test_the_signal_of_a_soft_limit_does_not_disturb_whoever_else_runs(
    app: App, side_of: Callable[..., Side]
) -> None:
    began: list[str] = []
    signalled: list[str] = []

    @app.task(soft_time_limit=30)
    async def shown() -> str:
        began.append("shown")
        await eventually_on_loop(lambda: bool(signalled))
        return "shown"

    @app.task
    async def other() -> str:
        await eventually_on_loop(lambda: bool(began))
        side.words[S_SOFT_TARGET] = side.words[C_RUNNING]
        os.kill(os.getpid(), signal.SIGUSR1)
        signalled.append("other")
        return "other"

    results = [shown.delay(), other.delay()]
    side = side_of()
    assert side.run() == 0
    assert [result.get(timeout=5) for result in results] == ["shown", "other"]


@pytest.mark.parametrize("limits", [{"soft_time_limit": 0.05}, {"time_limit": 0.05}], ids=str)
def test_limits_are_cancellation_and_what_catches_it_may_succeed(
    app: App, side_of: Callable[..., Side], limits: dict[str, float]
) -> None:
    @app.task(**limits)
    async def catches() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "cleaned up"
        return "not reached"

    @app.task(**limits)
    async def ends() -> None:
        await asyncio.sleep(60)

    caught, ended = catches.delay(), ends.delay()
    assert side_of().run() == 0
    assert caught.get(timeout=5) == "cleaned up"
    with pytest.raises((SoftTimeLimitExceeded, TimeLimitExceeded)):
        ended.get(timeout=5)


def test_a_soft_limit_waits_for_the_end_of_a_shield_and_a_hard_limit_does_not(
    app: App, side_of: Callable[..., Side]
) -> None:
    done: list[str] = []

    @app.task(soft_time_limit=0.05)
    async def shielded() -> None:
        with shield():
            await asyncio.sleep(0.2)
            done.append("committed")
        done.append("not reached")

    @app.task(soft_time_limit=0.05, time_limit=0.1)
    async def too_long() -> None:
        with shield():
            await asyncio.sleep(60)

    soft, hard = shielded.delay(), too_long.delay()
    assert side_of().run() == 0
    assert done == ["committed"]
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=5)
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=5)


def test_one_that_is_to_be_ended_is_cancelled_and_its_result_says_so(
    app: App, side_of: Callable[..., Side]
) -> None:
    revoked: list[Any] = []

    def on_revoked(terminated: bool, **_: Any) -> None:
        revoked.append(terminated)

    @app.task
    async def runs() -> None:
        board = side.child.parts.revoked_board
        board.add(ending_digest(asked.id))
        board.words[A_ENDINGS] = 1
        await asyncio.sleep(60)

    asked = runs.delay()
    side = side_of()
    signals.task_revoked.connect(on_revoked)
    try:
        assert side.run() == 0
    finally:
        signals.task_revoked.disconnect(on_revoked)
    assert (asked.state, revoked) == ("REVOKED", [True])


@pytest.mark.parametrize("hook", ["before_start", "on_success", "after_return"])
def test_a_soft_limit_reaches_hooks_that_wait(
    app: App, side_of: Callable[..., Side], caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    async def waits(*_: Any) -> None:
        await asyncio.sleep(60)

    @app.task(soft_time_limit=0.05, **{hook: waits})
    async def returns() -> str:
        return "done"

    asked = returns.delay()
    assert side_of().run() == 0
    if hook == "before_start":
        assert isinstance(asked.result, SoftTimeLimitExceeded)
    else:
        assert asked.get(timeout=5) == "done"
        assert f"hook waits of task {returns.name}" in caplog.text


@pytest.mark.parametrize("hook", ["before_start", "on_success", "after_return", "on_failure"])
def test_a_hard_limit_ends_hooks_that_wait_and_with_them_the_task(
    app: App, side_of: Callable[..., Side], hook: str
) -> None:
    async def waits(*_: Any) -> None:
        await asyncio.sleep(60)

    @app.task(time_limit=0.05, **{hook: waits})
    async def ends() -> None:
        if hook == "on_failure":
            raise ValueError("first")

    asked = ends.delay()
    assert side_of().run() == 0
    assert isinstance(asked.result, TimeLimitExceeded)


def test_a_broker_that_is_away_holds_up_no_task(
    app: App, side_of: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    async def nap(x: int) -> int:
        await asyncio.sleep(0.02)
        return x

    results = [nap.delay(n) for n in range(4)]
    side = side_of()
    settler = side.child.parts.settler
    original, failures = settler.settle, [0]

    def settle(*args: Any) -> Any:
        failures[0] += 1
        if failures[0] < 4:
            raise BrokerUnavailable("away")
        return original(*args)

    monkeypatch.setattr(settler, "settle", settle)
    assert side.run() == 0
    assert [result.get(timeout=5) for result in results] == list(range(4))


def test_outcomes_that_nobody_takes_are_left_to_the_agent(
    app: App, side_of: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[int] = []

    @app.task
    async def nap(x: int) -> int:
        began.append(x)
        await eventually_on_loop(lambda: len(began) == 3)
        side.words[S_STOP] = Stop.LEAVE
        return x

    for number in range(3):
        nap.delay(number)
    side = side_of()

    def settle(*args: Any) -> Any:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(side.child.parts.settler, "settle", settle)
    monkeypatch.setattr(side.child.parts, "pause", lambda seconds: None)
    assert side.run() == 5
    left = {decode_outcome(record).tag for record in side.child.slot.read_outcomes()}
    assert len(left) == 3


def test_what_was_taken_over_by_others_is_ended(
    app: App, side_of: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[type] = []
    began = threading.Event()

    @app.task
    async def nap() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            ended.append(type(error))
            raise

    nap.delay()
    side = side_of()
    consumer = side.child.parts.consumer
    original, calls = consumer.reserve, [0]

    def reserve(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] > 1:
            assert began.wait(10)
            raise OwnerLost("worker-1.0.1", "recovered")
        return original(*args)

    monkeypatch.setattr(consumer, "reserve", reserve)
    assert side.run() == 4
    assert ended == [asyncio.CancelledError]


def test_the_second_signal_to_a_worker_of_one_process_gives_back_what_runs(
    app: App, side_of: Callable[..., Side]
) -> None:
    @app.task
    async def nap() -> None:
        side.words[S_STOP] = Stop.LEAVE
        assert side.child.parts.driver.interrupt(Interrupted("stopped by a second SIGTERM"))
        await asyncio.sleep(60)

    nap.delay()
    side = side_of()
    assert side.run() == 0
    assert app.client.transport.depth("celery").ready == 1


def test_a_background_task_that_wants_to_end_the_process_does_not(
    app: App, side_of: Callable[..., Side], caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[Any] = []

    async def leaves() -> None:
        raise SystemExit(3)

    @app.task
    async def nap() -> str:
        kept.append(asyncio.ensure_future(leaves()))
        await asyncio.sleep(0.05)
        return "went on"

    result = nap.delay()
    assert side_of().run() == 0
    assert result.get(timeout=5) == "went on"
    assert "wanted to end the process" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("no")], ids=repr)
def test_whatever_one_raises_is_its_own_failure(
    app: App, side_of: Callable[..., Side], error: BaseException
) -> None:
    @app.task
    async def bad() -> None:
        await asyncio.sleep(0)
        raise error

    @app.task
    async def good() -> str:
        await asyncio.sleep(0.02)
        return "good"

    results = [bad.delay(), good.delay()]
    assert side_of().run() == 0
    assert isinstance(results[0].get(timeout=5, propagate=False), Exception)
    assert (results[0].state, results[1].get(timeout=5)) == ("FAILURE", "good")


def test_one_that_is_cancelled_before_its_first_step_fails(app: App, side_of: Callable[..., Side]) -> None:
    @app.task
    async def never() -> None:
        raise AssertionError("it has begun")

    result = never.delay()
    side = side_of()
    runs = side.loop._runs
    original = runs.start

    def start(ready: Any) -> None:
        original(ready)
        for run in list(runs._running.values()):
            run.cancel(SoftTimeLimitExceeded())

    runs.start = start  # type: ignore[method-assign]
    assert side.run() == 0
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=5)


def test_what_the_courier_dies_of_ends_the_child(
    app: App, side_of: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    side = side_of()

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(side.child.parts.consumer, "reserve", broken)
    with pytest.raises(RuntimeError, match="broken"):
        side.run()


def test_what_fails_alone_in_the_main_thread_ends_the_child(
    app: App, side_of: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    def plain() -> None: ...

    plain.delay()
    side = side_of()

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(side.loop, "_start", broken)
    with pytest.raises(RuntimeError, match="broken"):
        side.run()


@pytest.mark.parametrize("where", ["request", "executed"])
def test_a_message_that_can_only_be_recovered_ends_the_child(
    app: App, side_of: Callable[..., Side], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    @app.task
    async def nap() -> None:
        await asyncio.sleep(0)

    nap.delay()
    side = side_of()

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(side.loop._outcomes, where, broken)
    with pytest.raises(RuntimeError, match="broken"):
        side.run()
    side.words[S_STOP] = Stop.LEAVE
    assert app.client.transport.depth("celery").in_work == 1


def test_what_may_run_beside_others(app: App, child_of: Callable[..., OneChild]) -> None:
    async def coroutine() -> None: ...

    def plain() -> None: ...

    app.task(name="yes")(coroutine)
    app.task(name="plain")(plain)
    app.task(name="early", acks_late=False)(coroutine)
    app.task(name="once", reject_on_worker_lost=False)(coroutine)
    app.task(name="counted", max_concurrency=2)(coroutine)
    app.finalize()
    child = child_of(app)
    plans = {name: child.parts.plan(name) for name in ("yes", "plain", "early", "once", "counted")}
    assert [name for name, plan in plans.items() if plan and runs_beside_others(plan)] == ["yes"]


def test_it_asks_for_one_then_for_twice_as_many() -> None:
    room = Room(10)
    asked = []
    for _ in range(6):
        asked.append(room.limit())
        for _ in range(asked[-1]):
            room.take()
        room.batch_done(0, True, 0.0)
    assert asked == [1, 2, 4, 3, 0, 0]
    room.freed()
    assert room.limit() == 1
    room.nothing_came()
    for _ in range(9):
        room.freed()
    assert (room.taken, room.limit()) == (0, 1)


@pytest.mark.parametrize("beside", [True, False])
def test_one_that_holds_up_the_others_is_complained_of_once(
    app: App, side_of: Callable[..., Side], caplog: pytest.LogCaptureFixture, beside: bool
) -> None:
    @app.task
    async def blocks() -> None:
        time.sleep(0.3)

    @app.task
    async def other() -> None:
        await asyncio.sleep(0.7)

    if beside:
        other.delay()
        blocks.delay()
    blocks.delay()
    assert side_of().run() == 0
    # Of the other one it may be said, too, if the machine held that up.
    said = [text for text in caplog.messages if text.startswith(f"{blocks.name}[") and "held up the" in text]
    assert len(said) == int(beside)


class Counting:
    """Counts steps."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def begin(self) -> None:
        self.begun += 1

    def end(self) -> None:
        self.ended += 1


def test_stepped_is_transparent() -> None:
    steps = Counting()

    async def inner(fail: bool) -> str:
        await asyncio.sleep(0)
        try:
            await asyncio.sleep(60 if fail else 0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "caught"
        return "returned"

    async def main(fail: bool) -> str:
        before = steps.begun
        task = asyncio.ensure_future(_await(Stepped(inner(fail), steps)))
        while steps.begun - before < (2 if fail else 3):
            await asyncio.sleep(0)
        task.cancel()
        return await task

    async def _await(stepped: Stepped) -> Any:
        return await stepped

    assert asyncio.run(main(True)) == "caught"
    assert (steps.begun, steps.ended) == (4, 4)
    assert asyncio.run(main(False)) == "returned"
