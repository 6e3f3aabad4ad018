"""What is measured of one combination of settings, and which of them is recommended: pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from .tasks import RECORD

# Whoever is this close to the fastest is as fast: two runs of the same differ by as much.
_AS_FAST: Final = 0.95
# So much of a drain at least says how fast it goes.
_COUNTED_LEAST: Final = 0.1


@dataclass(frozen=True)
class Setting:
    """One combination.

    :ivar concurrency: number of children.
    :ivar read_ahead: upper bound on the messages that a child holds; 0 leaves it to predicted time.
    """

    concurrency: int
    read_ahead: int


@dataclass(frozen=True)
class Figures:
    """What was measured of it.

    :ivar per_s: tasks a second, from the first start to the last.
    :ivar p50_ms: milliseconds from before the send to the start, on an idle worker: median.
    :ivar p99_ms: the same, 99th percentile.
    :ivar cpu_us: CPU time of the whole worker a task, or None where there was too little of it to say.
    """

    concurrency: int
    read_ahead: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None

    def plain(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def starts_ns(log: bytes) -> dict[int, int]:
    """When each message started, by its number; the first start of one that ran more than once."""
    found: dict[int, int] = {}
    for number, start_ns in _records(log):
        found[number] = min(start_ns, found.get(number, start_ns))
    return found


def _records(log: bytes) -> Iterator[tuple[int, int]]:
    """The whole records of a log; one that is being written is left for later."""
    return RECORD.iter_unpack(log[: len(log) - len(log) % RECORD.size])


def rate(starts: Sequence[int], since_ns: int = 0) -> float:
    """Starts a second, between the first and the last of at least two.

    :param since_ns: those before do not count, unless nearly all were before.
    """
    counted = [start for start in starts if start >= since_ns]
    if len(counted) < max(2, len(starts) * _COUNTED_LEAST):
        counted = list(starts)
    span_ns = max(counted) - min(counted)
    return (len(counted) - 1) / (max(span_ns, 1) / 1e9)


def delays_ms(sent_ns: Mapping[int, int], started_ns: Mapping[int, int]) -> list[float]:
    """Milliseconds between sending and start of every message that was stamped."""
    return [(started_ns[number] - moment) / 1e6 for number, moment in sent_ns.items()]


def median(values: Sequence[float]) -> float:
    """The value in the middle."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def recommend(found: Sequence[Figures]) -> Figures:
    """The combination to use: as fast as the fastest, with the fewest children, then the quickest to start.

    Among equals the read-ahead that nobody bounded wins, because it adapts to other tasks too.

    :param found: at least one.
    """
    enough = max(one.per_s for one in found) * _AS_FAST
    fast = [one for one in found if one.per_s >= enough]
    fewest = min(one.concurrency for one in fast)
    few = [one for one in fast if one.concurrency == fewest]
    return min(few, key=lambda one: (one.read_ahead != 0, one.p99_ms))
