"""The token bucket, as a pure function over one number: the generic cell rate algorithm.

A bucket of `capacity` that fills at one token per `interval` is known by the moment at which it will be
full again. Taking a token moves that moment by one interval; a bucket whose moment has passed is full,
so an idle one has no state at all. All times in nanoseconds on the monotonic clock.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CATCH_UP_NS: Final = 50_000_000
"""How far a bucket makes up for takers that came late: without it, one that holds a single token would
lose as much of its rate as its takers are late."""


class Shape(NamedTuple):
    """What a bucket is like.

    :param interval_ns: how long one token takes to come.
    :param capacity_ns: how long the whole bucket takes to fill; at least one interval.
    """

    interval_ns: int
    capacity_ns: int


class Taken(NamedTuple):
    """What was taken.

    :param tokens: from 0 to what was wanted.
    :param full_at_ns: the bucket's new state.
    :param wait_ns: how long until the next token is there; 0 when all wanted were taken.
    """

    tokens: int
    full_at_ns: int
    wait_ns: int


def shape_of(rate_per_s: float, burst: float) -> Shape:
    """The bucket of a rate.

    :param rate_per_s: above 0.
    :param burst: tokens that it holds, at least 1; it holds `CATCH_UP_NS` worth besides.
    """
    interval_ns = max(1, round(1e9 / rate_per_s))
    return Shape(interval_ns, round(burst * interval_ns) + CATCH_UP_NS)


def take(full_at_ns: int, shape: Shape, now_ns: int, want: int, *, overdraft: int = 0) -> Taken:
    """Take up to `want` tokens.

    :param full_at_ns: the state: when the bucket is (or was) full.
    :param overdraft: so many tokens may be taken that are not there yet.
    """
    used_ns = used(full_at_ns, shape, now_ns)
    room_ns = shape.capacity_ns + overdraft * shape.interval_ns - used_ns
    tokens = max(0, min(want, room_ns // shape.interval_ns))
    full_at_ns = now_ns + used_ns + tokens * shape.interval_ns
    wait_ns = 0
    if tokens < want:
        wait_ns = full_at_ns - now_ns + shape.interval_ns - shape.capacity_ns - overdraft * shape.interval_ns
    return Taken(tokens, full_at_ns, max(0, wait_ns))


def due_ns(full_at_ns: int, shape: Shape, now_ns: int) -> int:
    """The moment from which on a token is there, or it is worth asking."""
    if is_left_over(full_at_ns, shape, now_ns):
        return now_ns
    return full_at_ns + shape.interval_ns - shape.capacity_ns


def give_back(full_at_ns: int, shape: Shape, tokens: int) -> int:
    """The state after tokens that were taken were not used."""
    return max(0, full_at_ns - tokens * shape.interval_ns)


def used(full_at_ns: int, shape: Shape, now_ns: int) -> int:
    """How much of the bucket is used up."""
    if is_left_over(full_at_ns, shape, now_ns):
        return shape.capacity_ns
    return max(0, full_at_ns - now_ns)


def is_left_over(full_at_ns: int, shape: Shape, now_ns: int) -> bool:
    """Whether a state is that of a slower rate, which this shape never reaches: it counts as empty.

    It must not be paid off for hours. Whoever takes replaces it, even if there was nothing to take.
    """
    return full_at_ns - now_ns > shape.capacity_ns + shape.interval_ns
