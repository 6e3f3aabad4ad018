"""Runs coroutines from code that is not on an event loop: one at a time, on one loop that is kept.

A coroutine is interrupted by cancellation: that is what code on an event loop cleans up for. What it
was interrupted for, such as `SoftTimeLimitExceeded`, is raised where the coroutine has ended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from typing import Any, Final

from .exceptions import TaskCancelledError

CLOSE_S: Final = 3.0
"""How long tasks in the background may take to end when their loop is closed."""

home: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("prefork_home_loop", default=None)
"""The loop of the coroutine on whose behalf this thread works, and which it waits for without blocking."""

_log = logging.getLogger("prefork.coroutines")


class Runner:
    """One event loop. Used by one thread; `interrupt` also by its signal handlers.

    :param kept: the loop; None makes one for the first coroutine.
    """

    def __init__(self, kept: KeptLoop | None = None) -> None:
        self._kept = kept
        self._coroutine: Any = None
        self._task: asyncio.Task[Any] | None = None
        # Why the running coroutine was interrupted last. Written by `interrupt`.
        self._error: BaseException | None = None
        self._inside = False  # from before the loop's code is entered until it has been left
        self._cancelling = False  # a cancellation was asked for, and the loop has not come to it yet

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end and return what it returned.

        :raises BaseException: what it raised; or what it was interrupted for, if it was cancelled.
        :raises TaskCancelledError: it was cancelled, by nobody here.
        """
        if self._kept is None:
            self._kept = KeptLoop()
        loop = self._kept.loop
        self._begin(coroutine)
        try:
            self._task = task = loop.create_task(coroutine)
            if self._error is not None:
                task.cancel()
            return loop.run_until_complete(task)
        except asyncio.CancelledError as cancelled:
            raise reason_of(self._error, cancelled) from None
        finally:
            self._task = self._coroutine = None
            self._inside = False

    def _begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._error = None
        self._cancelling = False
        self._coroutine = coroutine
        self._inside = True  # last: from here on it may be interrupted

    def interrupt(self, error: BaseException) -> bool:
        """End what runs by cancelling it, for a reason; to be called again until it has ended.

        :returns: False when nothing runs, or when a cancellation would not be seen: the coroutine
            itself is at work, or a task of its loop has let nobody else have a turn since the last
            call. Then the caller may raise where that code is: it is what a signal interrupts. It must
            not raise in the loop's own code, which would be left in disorder.
        """
        if not self._inside:
            return False
        task = self._task
        if task is None or task.done():
            self._error = error
            return True
        if self._coroutine.cr_running:
            return False
        if self._cancelling and asyncio.current_task(task.get_loop()) is not None:
            return False
        self._error = error
        self._cancelling = True
        task.get_loop().call_soon_threadsafe(self._cancel, task)
        return True

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        self._cancelling = False
        task.cancel()

    def close(self) -> None:
        """Cancel what was left in the background, and close the loop."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()


class KeptLoop:
    """An event loop that nobody but its owner knows: it is not set as anybody's current one.

    :ivar loop: the loop.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # Its own, because it is to be left behind: a thread that never ends must not keep the process.
        self._executor = ThreadPoolExecutor(thread_name_prefix="prefork-asyncio")
        self.loop.set_default_executor(self._executor)

    def close(self) -> None:
        """Cancel the tasks that are left, wait for them a moment, close the loop, which must not run."""
        loop = self.loop
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            _, stuck = loop.run_until_complete(asyncio.wait(left, timeout=CLOSE_S))
            if stuck:
                names = ", ".join(sorted(task.get_name() for task in stuck)[:10])
                _log.warning("%d asyncio tasks do not end when cancelled: %s", len(stuck), names)
        loop.run_until_complete(loop.shutdown_asyncgens())
        self._executor.shutdown(wait=False, cancel_futures=True)
        loop.close()


def _run_at_home(coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
    try:
        value, left = asyncio.run_coroutine_threadsafe(_staying(coroutine), loop).result()
    except concurrent.futures.CancelledError as cancelled:
        raise reason_of(None, cancelled) from None
    if left is not None:
        raise left
    return value


async def _staying(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, SystemExit | None]:
    """What a coroutine returns, or with what it wants to leave: out of a task it would end the loop."""
    try:
        return await coroutine, None
    except SystemExit as left:
        return None, left


def reason_of(error: BaseException | None, cancelled: BaseException) -> BaseException:
    """What a cancelled coroutine has ended with: why it was interrupted, if it was."""
    if error is None:
        error = TaskCancelledError("the coroutine was cancelled: by itself, or by what it waited for")
    within = cancelled.__context__
    if sys.version_info < (3, 11) and isinstance(within, asyncio.CancelledError):
        # Whoever asks for a result is given another exception than the one that knows the place.
        cancelled = within
    return error.with_traceback(cancelled.__traceback__)


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine and wait for it: on the `home` loop, or on one of its own.

    Where a loop runs already in this thread, it runs in another one (with the context of this one):
    two loops cannot take turns in one thread. The caller's loop stands still meanwhile.
    """
    if not _loop_runs_here():  # asked apart: what runs below must not find an exception being handled
        loop = home.get()
        if loop is not None:
            return _run_at_home(coroutine, loop)
        with closing(Runner()) as runner:
            return runner.run(coroutine)
    context = contextvars.copy_context()
    context.run(home.set, None)  # it will stand still
    ended: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            with closing(Runner()) as runner:
                ended.append((True, runner.run(coroutine)))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for it
            ended.append((False, error))

    thread = threading.Thread(target=context.run, args=(run,), name="prefork-eager")
    thread.start()
    thread.join()
    returned, value = ended[0]
    if returned:
        return value
    raise value
