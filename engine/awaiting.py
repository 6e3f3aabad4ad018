"""What is awaited on an event loop: sending tasks and waiting for results without blocking the loop.

Each method here is one of the blocking ones with an ``a`` in front of its name, and does the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from .exceptions import TimeoutError
from .join_guard import assert_may_join
from .local import get_current_app

if TYPE_CHECKING:
    from .app import App
    from .async_client import AsyncSide
    from .async_result import AsyncResult

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
        if propagate and follow_parents:
            for node in _ancestors(result):
                await result.app.client.aio.call(node.maybe_throw)
        if result.unknown:
            document = await result.app.client.aio.wait(result.id, timeout)
            if document is None:
                raise TimeoutError(f"no result of task[{result.id}] within {timeout:g} s")
            result.learn(document)
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


def _ancestors(result: Any) -> list[Any]:
    found = []
    node = result.parent
    while node is not None:
        found.append(node)
        node = node.parent
    return found[::-1]
