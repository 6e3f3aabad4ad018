"""Samples the private memory of the children onto the scoreboard; the supervisor decides."""

from __future__ import annotations

from ..clock import mono_ns
from ..linux import private_kib
from ..scoreboard import A_PRIVATE_KIB, A_SAMPLED_NS, S_HIGH_SLOT, S_PID, SLOTS, Scoreboard


def sample(scoreboard: Scoreboard) -> None:
    """Write what each child uses for itself (pages shared with the template are not counted)."""
    for index in range(min(scoreboard.words[S_HIGH_SLOT], SLOTS)):
        words = scoreboard.slot(index).words
        pid = words[S_PID]
        if pid:
            begun_ns = mono_ns()
            words[A_PRIVATE_KIB] = private_kib(pid) or 0
            # Last: a sample is never taken for a later one than it is.
            words[A_SAMPLED_NS] = begun_ns
