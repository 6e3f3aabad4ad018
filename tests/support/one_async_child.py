"""A child that runs coroutines side by side, in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from prefork.engine.app import App
from prefork.engine.child.async_loop import AsyncLoop, Room
from prefork.engine.scoreboard import S_STOP, Stop
from support.one_child import OneChild


async def eventually_on_loop(reason: Callable[[], bool]) -> None:
    """Let the others of the loop go on until something is true; fail when it does not get so."""
    for _ in range(500):
        if reason():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


class LeaveWhenDone:
    """Waits to be nudged; tells the child to leave when it runs nothing and finds nothing to do."""

    def __init__(self, child: OneChild) -> None:
        self._words = child.words
        self._changed = threading.Condition()
        self._count = 0
        self.room: Room | None = None
        self.stay = False

    def before_looking(self) -> int:
        return self._count

    def worked(self) -> None:
        """Nothing to remember."""

    def nudge(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, token: int) -> None:
        if not self.stay and self.room is not None and not self.room.taken:
            self._words[S_STOP] = Stop.LEAVE
            return
        self.rest(token)

    def rest(self, token: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count != token, 0.2)


class Side:
    """A child with its loop; `run` is the main thread's part."""

    def __init__(self, app: App, child_of: Callable[..., OneChild], concurrency: int, **options: Any) -> None:
        self.child = child_of(app, **options)
        self.idle = LeaveWhenDone(self.child)
        self.loop = AsyncLoop(self.child.parts, self.idle, concurrency)
        self.idle.room = self.loop._room
        self.words = self.child.words

    def run(self) -> int:
        try:
            return self.loop.run()
        finally:
            self.child.parts.driver.close()
