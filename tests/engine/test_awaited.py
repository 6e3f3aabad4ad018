"""Futures of results: what two threads look for, whom they tell, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefork.engine import awaited, states
from prefork.engine.app import App
from prefork.engine.async_client import AsyncSide
from prefork.engine.awaited import Awaited
from prefork.engine.exceptions import ImproperlyConfigured, TaskCancelledError, TimeoutError
from prefork.engine.execution import execute
from prefork.engine.join_guard import allow_join_result
from prefork.engine.request import Context
from prefork.engine.result_document import MalformedResult, ResultDocument
from prefork.transports.errors import ResultStoreUnavailable
from support.apps import memory_app
from support.forked import in_child
from support.waiting import eventually


class Stored:
    """Documents that a test puts there, behind the calls that `Awaited` makes."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.changed = threading.Condition()
        self.calls: list[list[str]] = []
        self.error: Exception | None = None
        self.waits = True

    def put(self, **documents: Any) -> None:
        with self.changed:
            self.documents.update(documents)
            self.changed.notify_all()

    def _found(self, keys: Sequence[str]) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        found = {key: self.documents[key] for key in keys if key in self.documents}
        for document in found.values():
            if isinstance(document, Exception):
                raise document
        return {key: document for key, document in found.items() if document.status in states.READY_STATES}

    def wait_any(self, keys: Sequence[str], timeout_s: float) -> dict[str, Any]:
        self.calls.append(list(keys))
        with self.changed:
            if self.waits:
                self.changed.wait_for(lambda: self.error or self._found(keys), timeout_s)
            return self._found(keys)

    def read(self, key: str) -> Any:
        self._found([key])
        return self.documents.get(key)

    def wait(self, key: str, timeout_s: float) -> Any:
        return self._found([key]).get(key)


def done(value: Any = None, status: str = states.SUCCESS) -> ResultDocument:
    return ResultDocument(status, value, None, None, None, None, None, None, {})


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def side(stored: Stored) -> Any:
    made = AsyncSide(stored)  # type: ignore[arg-type]
    yield made
    made.close()


async def until(reached: Callable[[], bool]) -> None:
    """Wait, on an event loop, for what threads do."""
    end_mono_s = time.monotonic() + 10.0
    while not reached():
        assert time.monotonic() < end_mono_s
        await asyncio.sleep(0.001)


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("prefork-await")}


def test_a_document_that_cannot_be_read_is_told_to_who_waits_for_it_and_to_nobody_else(
    stored: Stored, side: AsyncSide
) -> None:
    async def main() -> Any:
        waits = [asyncio.ensure_future(side.wait(key, None)) for key in ("bad", "good", "later")]
        await asyncio.sleep(0.05)
        stored.put(bad=MalformedResult("bad"), good=done(1))
        bad, good = await asyncio.gather(*waits[:2], return_exceptions=True)
        stored.put(later=done(2))
        return bad, good, await waits[2]

    bad, good, later = asyncio.run(main())
    assert isinstance(bad, MalformedResult)
    assert (good.result, later.result) == (1, 2)


def test_a_store_that_is_away_is_an_error_of_every_wait(stored: Stored, side: AsyncSide) -> None:
    stored.error = ResultStoreUnavailable("away")

    async def main() -> list[Any]:
        return await asyncio.gather(side.wait("a", 5.0), side.wait("b", None), return_exceptions=True)

    assert [type(error) for error in asyncio.run(main())] == [ResultStoreUnavailable] * 2
    stored.error = None
    stored.put(a=done("back"))
    found = asyncio.run(side.wait("a", 5.0))
    assert found is not None
    assert found.result == "back"


def test_whoever_waits_is_told_when_the_app_is_closed_and_nobody_can_begin_to(
    stored: Stored, side: AsyncSide
) -> None:
    async def main() -> Any:
        wait = asyncio.ensure_future(side.wait("never", None))
        await asyncio.sleep(0.01)
        side.close()
        with pytest.raises(ResultStoreUnavailable, match="closed"):
            await wait
        with pytest.raises(ResultStoreUnavailable, match="closed"):
            await side.wait("another", None)

    asyncio.run(main())
    stored.put(never=done())
    eventually(lambda: not names(), deadline_s=5.0)


def test_a_loop_that_was_closed_is_told_nothing(stored: Stored, side: AsyncSide) -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        side.awaited.future("a")

    loop.run_until_complete(begin())
    loop.close()
    stored.put(a=done(1))
    eventually(lambda: len(side.awaited) == 0, deadline_s=5.0)
    found = asyncio.run(side.wait("a", 5.0))
    assert found is not None


def test_one_that_is_not_final_is_waited_for(stored: Stored, side: AsyncSide) -> None:
    stored.put(a=done(status="PROGRESS"))

    async def main() -> Any:
        assert await side.wait("a", 0.05) is None
        assert await side.wait("a", 0) is None
        stored.put(a=done("final"))
        return await side.wait("a", 0)

    assert asyncio.run(main()).result == "final"


def test_what_comes_meanwhile_is_looked_for_at_once_and_taken_over(
    stored: Stored, side: AsyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The wait for everything does not end by itself: whoever is told of the new one is told by another.
    monkeypatch.setattr(awaited, "KNOWN_S", 3600.0)

    async def main() -> None:
        old = asyncio.ensure_future(side.wait("old", None))
        await until(lambda: stored.calls == [["old"]])
        new = asyncio.ensure_future(side.wait("new", None))
        await until(lambda: ["new"] in stored.calls)
        stored.put(new=done(1))
        await asyncio.wait_for(new, 10.0)
        stored.put(old=done(2))
        await asyncio.wait_for(old, 10.0)

    asyncio.run(main())


def test_a_store_that_does_not_wait_keeps_no_thread_busy(stored: Stored, side: AsyncSide) -> None:
    stored.waits = False
    began_s = time.monotonic()
    assert asyncio.run(side.wait("a", 0.2)) is None
    calls = len(stored.calls)
    assert calls <= 1 + (time.monotonic() - began_s) / awaited.FRESH_S


def test_the_threads_end_when_nothing_is_awaited(
    stored: Stored, side: AsyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaited, "IDLE_S", 0.05)
    stored.put(a=done())
    for _ in range(3):
        asyncio.run(side.wait("a", 5.0))
        eventually(lambda: not names(), deadline_s=5.0)


def test_a_wait_for_many_leaves_the_processor_to_others(stored: Stored, side: AsyncSide) -> None:
    def slow(keys: Sequence[str], timeout_s: float) -> dict[str, Any]:
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:
            pass
        stored.calls.append(list(keys))
        return {}

    stored.wait_any = slow  # type: ignore[method-assign]
    began_s = time.monotonic()
    assert asyncio.run(side.wait("a", 0.5)) is None
    assert len(stored.calls) <= (time.monotonic() - began_s) / 0.05 * 0.7


def test_results_that_are_disabled_are_an_error() -> None:
    with memory_app(result_backend="disabled") as app:
        app.conf.result_backend = None

        async def main() -> None:
            await app.AsyncResult("a").aget(1.0)

        with pytest.raises(ImproperlyConfigured):
            asyncio.run(main())


def test_an_ignored_result_and_an_eager_one_are_there_at_once() -> None:
    with memory_app(task_always_eager=True) as app:

        @app.task
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        @app.task
        def fail() -> None:
            raise ValueError("no")

        async def main() -> Any:
            with pytest.raises(ValueError, match="no"):
                await (await fail.adelay()).aget()
            both = app.ResultSet([await double.adelay(4), await double.adelay(5)])
            pairs = [found["result"] async for _, found in both.aiter_native()]
            return await both.aget(), pairs, await app.ResultSet([]).aget()

        assert asyncio.run(main()) == ([8, 10], [8, 10], [])
    with memory_app() as app:
        ignoring = ignored_result(app)
        assert asyncio.run(ignoring.aget()) is None


def test_an_eager_coroutine_runs_on_the_loop_of_its_caller_and_may_send_others() -> None:
    with memory_app(task_always_eager=True) as app:
        loops: list[asyncio.AbstractEventLoop] = []

        @app.task(bind=True)
        async def nested(self: Any, depth: int) -> int:
            loops.append(asyncio.get_running_loop())
            assert self.request.args == [depth]
            return 1 + (await (await nested.adelay(depth - 1)).aget() if depth else 0)

        @app.task
        async def blocking(depth: int) -> int:
            loops.append(asyncio.get_running_loop())
            return 1 + (blocking.delay(depth - 1).get() if depth else 0)

        @app.task
        async def cancelled() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

        async def main() -> Any:
            deep = await asyncio.gather(*(nested.adelay(5) for _ in range(20)))
            failed = await cancelled.adelay()
            at_home = {id(loop) for loop in loops} == {id(asyncio.get_running_loop())}
            values = [await result.aget() for result in deep]
            return values, at_home, failed.result, await (await blocking.adelay(3)).aget()

        values, at_home, error, blocked = asyncio.run(main())
        assert (values, at_home, blocked) == ([6] * 20, True, 4)
        assert isinstance(error, TaskCancelledError)


def ignored_result(app: App) -> Any:
    @app.task(ignore_result=True)
    def quiet() -> None: ...

    return quiet.delay()


def test_a_parent_that_failed_is_raised_first() -> None:
    with memory_app() as app:
        app.conf.result_backend = app.conf.broker_url
        parent = app.AsyncResult("parent")
        child = app.AsyncResult("child")
        child.parent = parent
        app.client.stored._write("parent", states.FAILURE, ValueError("above"))
        app.client.stored._write("child", states.SUCCESS, 1)
        with pytest.raises(ValueError, match="above"):
            asyncio.run(child.aget(5.0))
        assert asyncio.run(child.aget(5.0, follow_parents=False)) == 1


def test_nothing_is_awaited_inside_a_task_unasked() -> None:
    with memory_app() as app:

        @app.task
        async def waits() -> Any:
            return await app.AsyncResult("never").aget(0.1)

        done = execute(waits, Context(id="id", called_directly=False))
        assert isinstance(done.value, RuntimeError)
        with allow_join_result():
            done = execute(waits, Context(id="id", called_directly=False))
        assert isinstance(done.value, TimeoutError)


def test_awaited_counts_each_id_once() -> None:
    async def main() -> None:
        made = Awaited(Stored())  # type: ignore[arg-type]
        one, two = made.future("a"), made.future("a")
        assert len(made) == 1
        made.forget("a", one)
        made.forget("a", one)
        assert len(made) == 1
        made.forget("a", two)
        assert len(made) == 0
        made.close()

    asyncio.run(main())


def test_coroutines_that_send_side_by_side_in_bulk_lose_nothing() -> None:
    with memory_app() as app:
        task = app.task(name="noop")(lambda n: n)

        async def main() -> int:
            with app.bulk(chunk_size=7) as bulk:
                await asyncio.gather(*(task.adelay(n) for n in range(500)))
            late = asyncio.ensure_future(in_ended_block())
            with pytest.raises(RuntimeError, match="await it within"):
                await late
            return bulk.accepted

        async def in_ended_block() -> None:
            with app.bulk():
                sending = asyncio.ensure_future(task.adelay(0))
            await sending

        assert asyncio.run(main()) == 500
        assert app.client.transport.depth("celery").ready == 500


def test_a_forked_process_waits_with_threads_of_its_own(broker_root: Path) -> None:
    url = f"filesystem://{broker_root}"
    app = App("forked", broker=url, result_backend=url, set_as_current=False)
    try:
        app.client.stored._write("known", states.SUCCESS, 7)

        async def main() -> int:
            assert await app.AsyncResult("known").aget(5.0) == 7
            waiting = asyncio.ensure_future(app.AsyncResult("later").aget(10.0))
            await asyncio.sleep(0.05)
            app.client.stored._write("later", states.SUCCESS, 8)
            return await waiting

        assert asyncio.run(main()) == 8
        app.client.stored.forget(["later"])
        in_child(lambda: check(asyncio.run(main()) == 8))
    finally:
        app.close()


def check(holds: bool) -> None:
    assert holds
