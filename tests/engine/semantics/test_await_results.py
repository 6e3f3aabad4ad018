"""Sending and waiting on an event loop: nothing blocks it, on any broker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from prefork.engine import GroupResult, group
from prefork.engine.exceptions import TimeoutError
from support.semantics import Fleet

SOURCE = """
import asyncio

app = App("awaiting", **SETTINGS)


@app.task
def double(x):
    return 2 * x


@app.task
def fail(text):
    raise ValueError(text)


@app.task
async def later(delay_s, value):
    await asyncio.sleep(delay_s)
    return value


@app.task(bind=True)
async def who(self):
    await asyncio.sleep(0)
    return [self.request.id, self.request.parent_id, self.request.root_id]


@app.task
async def sends(x):
    sent = await double.adelay(x)
    return sent.id
"""

TIMEOUT_S = 20.0
MANY = 2000


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on a new loop, with a watch over it: the longest time that it stood still, in seconds."""

    async def watched() -> Any:
        stood_s = [0.0]

        async def watch() -> None:
            while True:
                began_s = time.monotonic()
                await asyncio.sleep(0.005)
                stood_s[0] = max(stood_s[0], time.monotonic() - began_s)

        watcher = asyncio.ensure_future(watch())
        try:
            return await asyncio.wait_for(main, 60.0), stood_s[0]
        finally:
            watcher.cancel()

    value, stood_s = asyncio.run(watched())
    assert stood_s < 2.0
    return value


def test_a_task_is_sent_and_its_result_awaited(fleet: Fleet) -> None:
    async def main() -> Any:
        first = await fleet.task("double").adelay(4)
        second = await fleet.task("double").aapply_async((5,), countdown=0)
        third = await fleet.app.asend_task(fleet.task("double").name, (6,))
        fourth = await fleet.task("double").s(7).adelay()
        return [await result.aget(TIMEOUT_S) for result in (first, second, third, fourth)]

    assert run(main()) == [8, 10, 12, 14]


def test_what_a_task_raised_is_raised_by_who_awaits_it(fleet: Fleet) -> None:
    async def main() -> Any:
        failing = await fleet.task("fail").adelay("no")
        with pytest.raises(ValueError, match="no"):
            await failing.aget(TIMEOUT_S)
        return await failing.aget(TIMEOUT_S, propagate=False)

    assert isinstance(run(main()), ValueError)


def test_a_result_that_does_not_come_is_a_timeout_and_may_be_awaited_again(fleet: Fleet) -> None:
    async def main() -> Any:
        result = await fleet.task("later").adelay(0.4, "came")
        for timeout_s in (0, 0.05):
            with pytest.raises(TimeoutError, match=result.id):
                await result.aget(timeout_s)
        return await result.aget(TIMEOUT_S)

    assert run(main()) == "came"


def test_what_is_cancelled_leaves_nothing_behind(fleet: Fleet) -> None:
    async def main() -> int:
        waits = [asyncio.ensure_future(fleet.app.AsyncResult(f"never-{n}").aget()) for n in range(50)]
        await asyncio.sleep(0.05)
        awaited = fleet.app.client.aio.awaited
        assert len(awaited) == 50
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        return len(awaited)

    assert run(main()) == 0


def test_several_wait_for_one_result_and_for_one_that_has_come(fleet: Fleet) -> None:
    async def main() -> Any:
        result = await fleet.task("later").adelay(0.1, "shared")
        others = [fleet.app.AsyncResult(result.id) for _ in range(5)]
        values = await asyncio.gather(*(other.aget(TIMEOUT_S) for other in others))
        return [*values, await fleet.app.AsyncResult(result.id).aget(TIMEOUT_S)]

    assert run(main()) == ["shared"] * 6


def test_a_fast_result_is_not_held_up_by_a_slow_one(fleet: Fleet) -> None:
    async def main() -> float:
        never = asyncio.ensure_future(fleet.app.AsyncResult("never").aget())
        await asyncio.sleep(0.1)
        took_s = []
        for x in range(5):
            began_s = time.monotonic()
            assert await (await fleet.task("double").adelay(x)).aget(TIMEOUT_S) == 2 * x
            took_s.append(time.monotonic() - began_s)
        never.cancel()
        return min(took_s)

    assert run(main()) < 0.5


def test_loops_of_several_threads_wait_at_the_same_time(fleet: Fleet) -> None:
    values: list[Any] = []

    def in_thread(number: int) -> None:
        async def main() -> Any:
            return await (await fleet.task("double").adelay(number)).aget(TIMEOUT_S)

        values.append(asyncio.run(main()))

    threads = [threading.Thread(target=in_thread, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(values) == [0, 2, 4, 6]


def test_a_group_is_awaited_in_order_and_as_it_comes(fleet: Fleet) -> None:
    async def main() -> Any:
        sent: GroupResult = await group(fleet.task("double").s(n) for n in range(10)).aapply_async()
        came = {task_id: found["result"] async for task_id, found in sent.aiter_native(TIMEOUT_S)}
        values = await sent.aget(TIMEOUT_S)
        return values, came == dict(zip([result.id for result in sent], values))

    assert run(main()) == ([2 * n for n in range(10)], True)


def test_a_group_with_a_failure_raises_it_and_cancels_the_other_waits(fleet: Fleet) -> None:
    async def main() -> int:
        failing = await fleet.task("fail").adelay("first")
        waiting = fleet.app.ResultSet([failing, fleet.app.AsyncResult("never")])
        with pytest.raises(ValueError, match="first"):
            await waiting.aget(TIMEOUT_S)
        with pytest.raises(TimeoutError, match="1 of 2"):
            async for _ in waiting.aiter_native(0.3):
                pass
        return len(fleet.app.client.aio.awaited)

    assert run(main()) == 0


def test_a_coroutine_task_sees_its_request_and_sends_as_a_parent(fleet: Fleet) -> None:
    async def main() -> Any:
        result = await fleet.task("who").adelay()
        sender = await fleet.task("sends").adelay(3)
        child = fleet.app.AsyncResult(await sender.aget(TIMEOUT_S))
        assert await child.aget(TIMEOUT_S) == 6
        children = sender.children
        assert [one.id for one in children or ()] == [child.id]
        return result.id, await result.aget(TIMEOUT_S)

    task_id, seen = run(main())
    assert seen == [task_id, None, task_id]


def test_thousands_wait_with_two_threads(fleet: Fleet) -> None:
    async def main() -> Any:
        with fleet.app.bulk():
            results = [fleet.task("double").delay(n) for n in range(MANY)]
        waits = [asyncio.ensure_future(result.aget(50.0)) for result in results]
        names = set()
        while not all(wait.done() for wait in waits):
            names |= {t.name for t in threading.enumerate() if t.name.startswith("prefork-await")}
            await asyncio.sleep(0.02)
        return [await wait for wait in waits], names

    values, names = run(main())
    assert values == [2 * n for n in range(MANY)]
    assert names <= {"prefork-await-known", "prefork-await-fresh"}
