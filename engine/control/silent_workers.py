"""Which workers were asked in vain a moment ago, so that not every call waits for them anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..clock import mono_s

SILENT_S: Final = 15.0
"""So long one that did not answer is not waited for. One that died is listed as long (`worker_lease`)."""


class SilentWorkers:
    """Workers that did not answer. Safe to use from several threads."""

    def __init__(self) -> None:
        # Name -> end. Never changed, only replaced, by any thread: what two threads note at once may be
        # lost by one of them, and is found out again.
        self._ends_mono_s: dict[str, float] = {}

    def any_of(self, workers: Iterable[str]) -> bool:
        """Whether one of these did not answer a moment ago."""
        ends_mono_s, now_s = self._ends_mono_s, mono_s()
        return any(ends_mono_s.get(worker, now_s) > now_s for worker in workers)

    def note(self, workers: Iterable[str]) -> None:
        """Remember that these did not answer."""
        now_s = mono_s()
        going_on = {worker: end for worker, end in self._ends_mono_s.items() if end > now_s}
        self._ends_mono_s = going_on | dict.fromkeys(workers, now_s + SILENT_S)
