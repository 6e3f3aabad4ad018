"""What workers agree on through their broker, besides messages: limits, locks, revocations.

A transport that can do it implements `Coordinates`. Everything here is keyed by names that the engine
chooses (any text, at most 255 bytes in UTF-8), survives the death of whoever did it, and is bounded:
whatever is not freed expires, or is freed with the lease of the worker that held it. A clock that is
set back may prolong something by as much, and makes nothing last for ever.

Every implementation passes `tests/transports/conformance/test_coordination.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

REVOKED_MAX = 50_000
"""How many revocations are remembered."""


class Grant(NamedTuple):
    """What a bucket gave.

    :param tokens: how many were taken, 0 to what was wanted.
    :param retry_after_s: when the next token is there, seconds from now; 0 when all wanted were taken.
    """

    tokens: int
    retry_after_s: float


@runtime_checkable
class Coordinates(Protocol):
    """A transport through which workers share limits, locks and revocations.

    Safe to use from several threads. Every method raises BrokerUnavailable when the broker cannot be
    reached.
    """

    def take_tokens(self, bucket: str, rate_per_s: float, burst: float, want: int) -> Grant:
        """Take up to `want` tokens from a bucket that all workers share.

        The bucket is full when it is first used. Rate and burst may differ from call to call: it has
        filled at the rate of this call since the last one, up to the burst of this call. It is
        forgotten by itself once it would be full again.

        :param rate_per_s: tokens a second, above 0.
        :param burst: how many tokens it holds at most, at least 1.
        :param want: at least 0, which only asks.
        :raises ValueError: one of them is not so.
        """

    def take_slot(self, name: str, limit: int, worker: str, holder: str) -> bool:
        """Take one of `limit` slots, or keep the one that `holder` has already.

        Slots of a worker without a lease (it has lapsed, or there never was one) count as free. A
        broker without leases frees them with the connection of this handle instead.

        :param worker: as in `Transport.heartbeat`.
        :param holder: who runs something, unique in time: ``<owner>`` (`Consumer.owner`), or
            ``<owner>/<anything>``.
        """

    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back. Harmless when it is not held."""

    def free_slots_of(self, owner: str) -> int:
        """Free every slot of the holders of this owner, which is dead; how many there were.

        A broker without leases has done so by itself, and answers 0.
        """

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock, for so long at most; None when it is ours now, else the value of its holder.

        To take it again with the same value gives it so much time from now.

        :raises ValueError: the time is not above 0.
        """

    def relock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock from whoever has it; returns that holder's value, None when it was free.

        :raises ValueError: as in `lock`.
        """

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        """Give a lock that still has this value so much time from now; whether it had.

        :raises ValueError: as in `lock`.
        """

    def unlock(self, name: str, value: str) -> bool:
        """Free a lock if it still has this value; whether it had."""

    def locked(self, name: str) -> str | None:
        """The value of a lock, None when it is free."""

    def revoke(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember that these are revoked. At most `REVOKED_MAX` are kept; the oldest go first.

        What is revoked again becomes the newest, and has the lifetime that it is given then.

        :raises ValueError: the lifetime is not above 0.
        """

    def revoked(self) -> list[str]:
        """What is revoked, oldest first. For a worker that starts, and whenever the mark is another one."""

    def revoked_mark(self) -> str:
        """A text that is another one than before when something was revoked since, or revoked again.

        Cheap, however much is revoked. To be compared with what the same handle said; it may be another
        one without a reason. A broker that only counts what is revoked may say the same while as many have
        ended, or were put together, as were revoked (RabbitMQ).
        """


def is_of(holder: str, owner: str) -> bool:
    """Whether the holder of a slot belongs to an owner."""
    return holder == owner or holder.startswith(f"{owner}/")


def check_bucket(rate_per_s: float, burst: float, want: int) -> None:
    """What every implementation refuses to put into a bucket.

    :raises ValueError: the rate is not above 0, the burst is below 1, or less than nothing is wanted.
    """
    if not (0.0 < rate_per_s < float("inf") and 1.0 <= burst < float("inf") and want >= 0):
        raise ValueError(
            f"rate_per_s={rate_per_s!r}, burst={burst!r}, want={want!r}: a rate is above 0, a burst at "
            "least 1, and nobody wants less than 0 tokens"
        )


def check_time(name: str, duration_s: float) -> None:
    """What every implementation refuses as a duration.

    :raises ValueError: it is not above 0, or has no end.
    """
    if not 0.0 < duration_s < float("inf"):
        raise ValueError(f"{name}={duration_s!r}: write a number of seconds above 0")


class Level(NamedTuple):
    """What is in a bucket. Pure: whoever keeps it knows how much time has passed.

    :param tokens: at most the burst.
    """

    tokens: float

    def take(self, elapsed_s: float, rate_per_s: float, burst: float, want: int) -> tuple[Level, Grant]:
        """The bucket after somebody came `elapsed_s` after the last one; less than 0 counts as 0."""
        there = min(burst, self.tokens + max(0.0, elapsed_s) * rate_per_s)
        # A thousand-millionth short of a token is the rounding of clocks, not a want of tokens.
        granted = min(want, int(there + 1e-9))
        left = max(0.0, there - granted)
        retry_after_s = 0.0 if granted == want else max(0.0, 1.0 - left) / rate_per_s
        return Level(left), Grant(granted, retry_after_s)

    def full_after_s(self, rate_per_s: float, burst: float) -> float:
        """How long it takes until it is full, unless somebody comes."""
        return max(0.0, burst - self.tokens) / rate_per_s
