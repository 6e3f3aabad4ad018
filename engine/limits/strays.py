"""Lanes of tasks that are not registered here any more: renamed, or taken out of the code.

Nobody takes messages from the lane of a task that he does not know. So that they do not wait for ever,
they go back to their queue, where they are treated as any other message of an unknown task.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from ..storage import Storage
from .lanes import lanes_among, lanes_of
from .upkeep import hand_back

# So long one look may move messages; the worker's lease is renewed by the same thread.
_MOVES_S: Final = 1.0


class Strays:
    """The lanes of one worker's queues of which it does not know the task. Used by one thread.

    :param names: the tasks that it knows.
    :param grace_s: how long none of a lane's messages has been taken, before it counts as forgotten:
        another worker may know the task.
    """

    def __init__(
        self,
        storage: Storage,
        names: Iterable[str],
        queues: Sequence[str],
        grace_s: float,
        log: logging.Logger,
    ) -> None:
        self._transport = storage.transport
        self._table = storage.table
        self._queues = queues
        self._known = {lane for name in names for lane in lanes_of(queues, name)}
        self._grace_s = grace_s
        self._log = log
        # Lane -> how many wait there, and since when they have not become fewer.
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self, there: Iterable[str], now_mono_s: float) -> None:
        """Look how many wait, and hand back what waits for nobody.

        :param there: the queues that the broker has.
        :raises TransportError: the broker cannot be reached.
        """
        names = list(there)
        lanes = [lane for queue in self._queues for lane in lanes_among(names, queue)]
        counts = {lane: self._transport.ready([lane]) for lane in lanes if lane not in self._known}
        self._seen = {lane: seen for lane, seen in self._seen.items() if counts.get(lane)}
        for lane, count in counts.items():
            before, since_mono_s = self._seen.get(lane, (count, now_mono_s))
            if count < before:
                since_mono_s = now_mono_s
            if count and now_mono_s - since_mono_s >= self._grace_s:
                count -= self._hand_back(lane)
            if count:
                self._seen[lane] = (count, since_mono_s)

    def _hand_back(self, lane: str) -> int:
        moved = hand_back(self._transport, lane, self._queues, self._table, for_s=_MOVES_S)
        if moved:
            self._log.warning(
                "%d messages go back from %s to their queue: the task is not registered here, and no other "
                "worker has taken one for %g s",
                moved,
                lane,
                self._grace_s,
            )
        return moved
