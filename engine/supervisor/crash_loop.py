"""Children that die again and again are replaced ever more slowly. Pure functions of state and time.

One death is answered at once, and so is a wave of them: whoever kills every child kills each of
them once. What counts is a child that dies although it was forked after the last death that
counted, the less the longer it lived. Every execution that a dying child had ended makes up for a
death: kills from outside hit children that work, a crash loop hits children that never
finish anything.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .boot_guard import backoff_s

# So many deaths in a row are answered at once.
FREE: Final = 2
FIRST_PAUSE_S: Final = 0.2
LAST_PAUSE_S: Final = 10.0
# In so many seconds without a death, half of what has happened is forgotten.
HALF_LIFE_S: Final = 2.0

_STEPS: Final = 7  # the last of them is a pause of LAST_PAUSE_S
_CREDIT: Final = 1.0  # of a death, for every execution that the dying child had ended
_FORGOTTEN: Final = 0.5  # with less than this left, a death is the first one of a new series


class Death(NamedTuple):
    """What is to be known of a child that died.

    :param forked_s: monotonic time at which it was asked for.
    :param booted_s: seconds until it was ready.
    :param lived_s: seconds between its being ready and its death.
    :param ended: executions that it had brought to their end.
    """

    forked_s: float
    booted_s: float
    lived_s: float
    ended: int


class CrashLoop(NamedTuple):
    """What is remembered of the deaths so far. Times are monotonic, in seconds.

    :param weight: how many deaths nothing had made up for, at `as_of_s`.
    :param counted_s: the last death that counted.
    :param not_before_s: nobody is replaced before.
    :param step: how often the pause has grown; 0: everybody is replaced at once.
    :param deaths: in this series.
    :param since_s: when the series began.
    """

    weight: float = 0.0
    as_of_s: float = float("-inf")
    counted_s: float = float("-inf")
    not_before_s: float = float("-inf")
    step: int = 0
    deaths: int = 0
    since_s: float = 0.0


CALM: Final = CrashLoop()


def weight_now(loop: CrashLoop, now_mono_s: float) -> float:
    """How many deaths nothing has made up for; a pause heals nothing, since nobody is tried in it."""
    return loop.weight * _half_lives(now_mono_s - loop.as_of_s)


def died(loop: CrashLoop, death: Death, now_mono_s: float, fraction: float) -> CrashLoop:
    """What follows from the death of a child that nobody told to leave.

    :param fraction: random in [0, 1); half of a pause is jitter.
    """
    weight = weight_now(loop, now_mono_s - death.booted_s)  # who boots does no work yet
    if weight < _FORGOTTEN:
        loop = loop._replace(deaths=0, since_s=now_mono_s)
    counts = death.forked_s >= loop.counted_s
    if counts:
        weight += _half_lives(death.lived_s)
    weight = min(float(FREE + _STEPS), max(0.0, weight - _CREDIT * death.ended))
    not_before_s, step = loop.not_before_s, loop.step
    if counts:
        step = max(0, int(weight + 0.5) - FREE)
        if step:
            pause_s = backoff_s(step, fraction, first_s=FIRST_PAUSE_S, last_s=LAST_PAUSE_S)
            not_before_s = now_mono_s + pause_s
    return loop._replace(
        weight=weight,
        as_of_s=max(now_mono_s, not_before_s),
        counted_s=now_mono_s if counts else loop.counted_s,
        not_before_s=not_before_s,
        step=step,
        deaths=loop.deaths + 1,
    )


def tried(loop: CrashLoop, now_mono_s: float) -> CrashLoop:
    """The same when a child is ready: from now on it shows whether it lives."""
    return loop._replace(as_of_s=max(loop.as_of_s, now_mono_s)) if loop.step else loop


def settled(loop: CrashLoop, now_mono_s: float) -> CrashLoop:
    """The same, without its pauses once the deaths are mostly forgotten.

    Not to be asked while a child boots.
    """
    if loop.step and weight_now(loop, now_mono_s) + 0.5 < FREE + 1:
        return loop._replace(step=0)
    return loop


def _half_lives(seconds: float) -> float:
    return float(0.5 ** min(max(0.0, seconds) / HALF_LIFE_S, 64.0))


def forks_allowed(loop: CrashLoop, missing: int, newest_fork_s: float, now_mono_s: float) -> int:
    """How many children may be forked now.

    After a pause, one child tries for all until the deaths are forgotten.

    :param missing: how many are wanted.
    :param newest_fork_s: when the youngest living child was asked for; -inf when there is none.
    """
    if not loop.step:
        return missing
    if now_mono_s < loop.not_before_s or newest_fork_s >= loop.not_before_s:
        return 0
    return min(missing, 1)
