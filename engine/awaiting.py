"""What is awaited on an event loop: sending tasks and waiting for results without blocking the loop.

Each method here is one of the blocking ones with an ``a`` in front of its name, and does the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from .ancestry import Ancestry, ancestors
from .clock import mono_s
from .exceptions import TimeoutError
from .join_guard import assert_may_join
from .local import get_current_app

if TYPE_CHECKING:
    from .app import App
    from .async_client import AsyncSide
    from .async_result import AsyncResult
    from .result_document import ResultDocument

P = ParamSpec("P")
R = TypeVar("R")


class AwaitsSending(Generic[P, R]):
    """The awaitable side of a task."""

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As `Task.delay`."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """As `Task.apply_async`, with the same options, and raising the same.

        When the caller is cancelled meanwhile, the task may have been sent or not.
        """
        task: Any = self
        sent = await task.app.client.aio.call(task.apply_async, args, kwargs, **options)
        return cast("AsyncResult[R]", sent)


class AwaitsApp:
    """The awaitable side of an app."""

    async def asend_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """As `App.send_task`."""
        app: Any = self
        sent = await app.client.aio.call(app.send_task, name, args, kwargs, **options)
        return cast("AsyncResult[Any]", sent)


class AwaitsSignatures:
    """The awaitable side of a signature."""

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """As `Signature.delay`."""
        call: Any = self
        return await call.app.client.aio.call(call.delay, *args, **kwargs)

    async def aapply_async(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """As `Signature.apply_async`."""
        call: Any = self
        return await call.app.client.aio.call(partial(call.apply_async, args, kwargs, **options))


class AwaitsOne(Generic[R]):
    """The awaitable side of a result."""

    __slots__ = ()

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As `AsyncResult.get`: wait for the task to end and return what it returned.

        To cancel it leaves nothing behind. Any number may wait at the same time, on any number of loops.

        :param timeout: seconds; None waits for ever.
        :raises TimeoutError: it did not end in time.
        :raises RuntimeError: called inside a task, see `allow_join_result`.
        """
        result: Any = self
        if result.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_may_join()
        above = None
        if propagate and follow_parents and result.parent is not None:
            for node in ancestors(result):
                await result.app.client.aio.call(node.maybe_throw)
            above = Ancestry(result, result.app.client.stored)
        if result.unknown:
            result.learn(await _awaited(result, timeout, above))
        return cast(R, result.maybe_throw(propagate=propagate, callback=callback))


class AwaitsSeveral:
    """The awaitable side of a set of results."""

    _app: App | None
    results: list[Any]

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """As `ResultSet.get`: wait for all of them and return what they returned, in order.

        :param timeout: seconds for all of them together; None waits for ever.
        :param propagate: raise the first error (in order) instead of returning it.
        :raises TimeoutError: they did not all end in time.
        """
        if disable_sync_subtasks:
            assert_may_join()
        if not self.results:
            return []
        values: list[Any] = []
        gets = [result.aget(timeout, propagate, disable_sync_subtasks=False) for result in self.results]
        async with aclosing(self._aio().in_order(gets)) as ended:
            async for value in ended:
                if callback is not None:
                    callback(self.results[len(values)].id, value)
                values.append(value)
        return values

    ajoin = aget

    async def aiter_native(self, timeout: float | None = None) -> AsyncIterator[tuple[str, Any]]:
        """As `ResultSet.iter_native`: pairs of id and a map of status and result, as the tasks end.

        :raises TimeoutError: the next one did not end in time (seconds from the start).
        """
        waiting: dict[str, None] = {}
        for result in self.results:
            if getattr(result, "unknown", False):
                waiting[result.id] = None
                continue
            value = await result.aget(propagate=False, disable_sync_subtasks=False)
            yield result.id, {"status": getattr(result, "state", None), "result": value}
        if not waiting:
            return
        left = len(waiting)
        async with aclosing(self._aio().as_they_come(waiting, timeout)) as documents:
            async for task_id, document in documents:
                left -= 1
                yield task_id, {"status": document.status, "result": document.result}
        if left:
            raise TimeoutError(f"{left} of {len(self.results)} results missing after {timeout:g} s")

    def _aio(self) -> AsyncSide:
        known = [
            one for one in (self._app, *(getattr(result, "_app", None) for result in self.results)) if one
        ]
        return (known[0] if known else get_current_app()).client.aio


async def _awaited(result: Any, timeout: float | None, above: Ancestry | None) -> ResultDocument:
    """The final document of a result.

    :param above: looked at now and then.
    :raises TimeoutError: it did not end in time.
    """
    aio = result.app.client.aio
    end_mono_s = None if timeout is None else mono_s() + timeout
    while True:
        left_s = None if end_mono_s is None else max(0.0, end_mono_s - mono_s())
        turn_s = left_s if above is None else above.step_s(inf if left_s is None else left_s)
        document: ResultDocument | None = await aio.wait(result.id, None if turn_s == inf else turn_s)
        if document is not None:
            return document
        if above is not None:
            await aio.call(above.look)
        if end_mono_s is not None and mono_s() >= end_mono_s:
            raise TimeoutError(f"no result of task[{result.id}] within {timeout:g} s")
