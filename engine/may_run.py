"""Which tasks run in a worker, or may be about to: read from the scoreboard, without a lock.

For whoever is to say that a revoked task will never run. It must be on the board of the revoked before it is
asked for here: whatever a child looks at after that, it does not start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from .clock import mono_s
from .revoked_keys import slot_id
from .scoreboard import (
    C_BATCH,
    C_CURSOR,
    C_HELD,
    C_OUTCOME_BYTES,
    C_POLICY,
    C_RUNNING,
    S_GENERATION,
    S_HIGH_SLOT,
    SLOTS,
    Policy,
    Scoreboard,
    Slot,
)

_LOOK_S: Final = 0.002


def may_run(scoreboard: Scoreboard, ids: Iterable[str], within_s: float) -> set[str]:
    """Those that run here, or have run and are not settled, or that a child may just have found not revoked.

    A child that holds messages and runs none, or one that is not the first of its batch, may have any of
    them in hand: until that is settled, which is waited for, all are among them.

    :param within_s: how long such children are waited for, in seconds.
    """
    wanted = {slot_id(task_id): task_id for task_id in ids}
    # A worker of one process has no slot that anybody counted.
    slots = [scoreboard.slot(at) for at in range(max(1, min(scoreboard.words[S_HIGH_SLOT], SLOTS)))]
    begun = [(slot, slot.words[S_GENERATION], slot.words[C_BATCH]) for slot in slots]
    found: set[str] = set()
    ends_mono_s = mono_s() + within_s
    while True:
        begun = [one for one in begun if not _is_past(*one, wanted, found)]
        if not begun:
            return found
        if mono_s() >= ends_mono_s:
            return set(wanted.values())
        time.sleep(_LOOK_S)


def _is_past(slot: Slot, generation: int, batch: int, wanted: dict[bytes, str], found: set[str]) -> bool:
    """Whether a child has settled all that it may have found not revoked, but for what is found running."""
    words = slot.words
    running, texts = words[C_RUNNING], slot.read_texts()
    policy, cursor, held, outcomes = words[C_POLICY], words[C_CURSOR], words[C_HELD], words[C_OUTCOME_BYTES]
    if (words[S_GENERATION], words[C_RUNNING]) != (generation, running):
        return False
    if words[C_BATCH] != batch and not outcomes:
        return True
    if not running:
        return not held and not outcomes
    if texts.torn or policy & Policy.BESIDE:
        return False
    if texts.raw_id in wanted:
        found.add(wanted[texts.raw_id])
    return cursor <= 1
