"""The event loop of a child, on which ``async def`` tasks run: made for the first of them, then kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..coroutines import Runner

_log = logging.getLogger("prefork.child")


class Driver:
    """Runs the coroutine of a task to its end, in the thread of the worker loop."""

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._interrupt: Callable[[BaseException], bool] | None = None

    def share(self, runner: Runner, interrupt: Callable[[BaseException], bool]) -> None:
        """Use the loop on which other tasks run already.

        :param interrupt: is asked in place of the runner.
        """
        self._runner, self._interrupt = runner, interrupt

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What the coroutine returned; raises as `coroutines.Runner.run`."""
        if self._runner is None:
            # A child that runs no such task never loads asyncio.
            self._runner = import_module("..coroutines", __package__).Runner()
        return self._runner.run(coroutine)

    def interrupt(self, error: BaseException) -> bool:
        """Have a coroutine that waits end for a reason; False: raise it here, where code is at work."""
        if self._interrupt is not None:
            return self._interrupt(error)
        return self._runner is not None and self._runner.interrupt(error)

    def close(self) -> None:
        """Cancel what tasks have left in the background, and close the loop."""
        if self._runner is None:
            return
        try:
            self._runner.close()
        except Exception:
            # What the user's code raises when it is cancelled must not keep this process from leaving.
            _log.exception("the event loop of asyncio tasks cannot be closed")
