"""How many messages a child may hold: read-ahead measured in time, not in messages (design §4).

Pure bookkeeping: the caller measures. One `ReadAhead` belongs to one child's loop.
"""

from __future__ import annotations

from typing import Final

SAMPLES_MIN: Final = 20
SHORT_S: Final = 0.005
_AVERAGE_WEIGHT: Final = 0.1
# Of 100 runs at most one may be longer than SHORT_S. A run that is not short costs as many short
# ones as it takes to be one in a hundred again.
_CREDIT_PER_LONG_RUN: Final = 100


class Kind:
    """What is known about the run times of one task name.

    :ivar short: known to be short: enough samples, and the 99th percentile of them below SHORT_S.
    """

    __slots__ = ("average_s", "debt", "samples", "short")

    def __init__(self) -> None:
        self.samples = 0
        self.average_s = 0.0
        self.debt = 0
        self.short = False

    def add(self, runtime_s: float) -> None:
        """Take one more run into account."""
        self.samples += 1
        if self.samples == 1:
            self.average_s = runtime_s
        else:
            self.average_s += _AVERAGE_WEIGHT * (runtime_s - self.average_s)
        if runtime_s >= SHORT_S:
            self.debt += _CREDIT_PER_LONG_RUN
        elif self.debt:
            self.debt -= 1
        self.short = self.samples >= SAMPLES_MIN and self.debt == 0 and self.average_s < SHORT_S


class ReadAhead:
    """Decides how many messages to reserve next.

    :param budget_s: how much predicted work a child may hold.
    :param max_n: upper bound in messages.
    """

    def __init__(self, budget_s: float, max_n: int) -> None:
        self._budget_s = budget_s
        self._max_n = max(1, max_n)
        self._kinds: dict[str, Kind] = {}
        self._limit = 1

    def kind(self, task_name: str) -> Kind:
        """What is known about a task name."""
        kind = self._kinds.get(task_name)
        if kind is None:
            kind = self._kinds[task_name] = Kind()
        return kind

    def limit(self) -> int:
        """How many messages to reserve now."""
        return self._limit

    def batch_done(self, names: int, all_short: bool, slowest_average_s: float) -> None:
        """Adapt to what the last batch was made of.

        The bound doubles at most, so that a queue whose mixture changes is found out with few
        messages in hand.

        :param names: how many messages ran.
        :param all_short: every one of them was of a kind known to be short.
        :param slowest_average_s: the largest average among their kinds.
        """
        if not all_short or names == 0:
            self._limit = 1
            return
        affordable = int(self._budget_s / max(slowest_average_s, 1e-6))
        self._limit = max(1, min(self._limit * 2, affordable, self._max_n))
