"""What is counted over the life of a worker."""

from __future__ import annotations

import collections
from typing import Final

from ..scoreboard import C_EXECUTIONS, C_FAILED, C_RETRIED, C_SUCCEEDED, Slot
from .killing import Doom

COUNTED: Final = {
    "executions": C_EXECUTIONS,
    "succeeded": C_SUCCEEDED,
    "failed": C_FAILED,
    "retried": C_RETRIED,
}
_CAUSES_MAX: Final = 100


def counters(slot: Slot) -> dict[str, int]:
    """What the child of a slot has counted so far."""
    return {name: slot.words[word] for name, word in COUNTED.items()}


class Tally:
    """Counters of the children that have ended. Written by the supervisor's loop only.

    :ivar deaths: by verdict.
    :ivar causes: by cause, for those that were not told to leave.
    :ivar past: what those children had counted.
    """

    def __init__(self) -> None:
        self.deaths: collections.Counter[str] = collections.Counter()
        self.causes: collections.Counter[str] = collections.Counter()
        self.past: collections.Counter[str] = collections.Counter()

    def died(self, doom: Doom) -> None:
        """A child has ended."""
        self.deaths[doom.verdict] += 1
        if doom.verdict != "exit":
            known = doom.cause in self.causes or len(self.causes) < _CAUSES_MAX
            self.causes[doom.cause if known else "other"] += 1

    def keep(self, slot: Slot) -> None:
        """Take over what the child of this slot has counted; its slot is about to be cleared."""
        self.past.update(counters(slot))

    def totals(self, living: list[Slot]) -> dict[str, int]:
        """The counters of all children, those of the past included."""
        totals = collections.Counter(self.past)
        for slot in living:
            totals.update(counters(slot))
        return {name: totals[name] for name in COUNTED}
