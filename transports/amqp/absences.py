"""Which queues were not there, and when it is worth asking again.

To ask for a queue that does not exist ends the channel, and the broker writes an error into its log. So
whoever asks regularly asks less and less often. Pure: the time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PAUSE_S_MIN, PAUSE_S_MAX = 0.02, 30.0
_KEPT_MAX = 10_000


class Absences:
    """Used under one lock."""

    def __init__(self) -> None:
        self._pauses: dict[str, tuple[float, float]] = {}  # the end of the pause, and its length

    def worth_asking(self, queues: Iterable[str], now_mono_s: float) -> list[str]:
        """Those that exist as far as is known, or whose pause is over."""
        return [queue for queue in queues if self._pauses.get(queue, (0.0, 0.0))[0] <= now_mono_s]

    def learn(self, counts: Mapping[str, int | None], now_mono_s: float) -> None:
        """Note what was found; None is a queue that does not exist."""
        for queue, count in counts.items():
            if count is not None:
                self._pauses.pop(queue, None)
                continue
            if len(self._pauses) >= _KEPT_MAX:
                self._pauses.clear()
            pause_s = min(PAUSE_S_MAX, max(PAUSE_S_MIN, 2 * self._pauses.get(queue, (0.0, 0.0))[1]))
            self._pauses[queue] = (now_mono_s + pause_s, pause_s)

    def forget(self, queues: Iterable[str]) -> None:
        """They exist now, or will in a moment."""
        for queue in queues:
            self._pauses.pop(queue, None)
