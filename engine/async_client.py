"""The client for code on event loops: nothing here blocks a loop, and none is kept."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from .awaited import Awaitable, Awaited
from .clock import mono_s
from .coroutines import home
from .result_document import ResultDocument
from .stored_results import StoredResults

SENDERS: Final = 4
"""How many threads send. Each waits for the broker most of the time."""

EAGER_SENDERS: Final = 1000
"""How many may run tasks instead, with `task_always_eager`: one that sends others waits for them."""

T = TypeVar("T")


class AsyncSide:
    """What the client of one process needs for code on event loops; for any number of them.

    :param stored: reads results and waits for them, blocking.
    :param eager: what is sent is run here and now: an ``async def`` task on the loop of its caller.
    :ivar awaited: what is waited for.
    """

    def __init__(self, stored: StoredResults, *, eager: bool = False) -> None:
        self._stored = stored
        self._senders = ThreadPoolExecutor(EAGER_SENDERS if eager else SENDERS, "prefork-send")
        self.awaited = Awaited(stored)

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call something that may block, in another thread and in this context.

        When the caller is cancelled meanwhile, it may have been called or not.
        """
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        context.run(home.set, loop)
        bound = partial(context.run, partial(function, *args, **kwargs))
        return await loop.run_in_executor(self._senders, bound)

    async def wait(self, task_id: str, timeout_s: float | None) -> ResultDocument | None:
        """Wait for the final document of an id; None when the time is over.

        :param timeout_s: None waits for ever; 0 looks once.
        :raises ResultStoreUnavailable: the store is away for long, or the app was closed.
        """
        if timeout_s is not None and timeout_s <= 0:
            return await self.call(self._stored.wait, task_id, 0.0)
        future = self.awaited.future(task_id)
        try:
            done, _ = await asyncio.wait((future,), timeout=timeout_s)
            return future.result() if done else None
        finally:
            self.awaited.forget(task_id, future)

    async def as_they_come(
        self, task_ids: Iterable[str], timeout_s: float | None
    ) -> AsyncGenerator[tuple[str, ResultDocument], None]:
        """Ids and final documents, as the tasks end; over early when the time is.

        :raises ResultStoreUnavailable: as `wait`.
        """
        end_mono_s = None if timeout_s is None else mono_s() + timeout_s
        ended: asyncio.Queue[Awaitable] = asyncio.Queue()
        futures = {self.awaited.future(task_id): task_id for task_id in dict.fromkeys(task_ids)}
        for future in futures:
            future.add_done_callback(ended.put_nowait)
        try:
            while futures:
                left_s = None if end_mono_s is None else max(0.0, end_mono_s - mono_s())
                try:
                    future = await asyncio.wait_for(ended.get(), left_s)
                except asyncio.TimeoutError:
                    return
                yield futures.pop(future), future.result()
        finally:
            for future, task_id in futures.items():
                self.awaited.forget(task_id, future)

    @staticmethod
    async def in_order(coroutines: Iterable[Coroutine[Any, Any, T]]) -> AsyncGenerator[T, None]:
        """Run all side by side; what they return, in their order, or what the first of them raises."""
        tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Let threads end; what is being sent is sent, and nothing is awaited any more."""
        self.awaited.close()
        self._senders.shutdown(wait=False)
