"""What workers agree on through their broker, besides messages: limits, locks, revocations.

A transport that can do it implements `Coordinates`. Everything here is keyed by names that the engine
chooses (any text, at most 255 bytes in UTF-8), survives the death of whoever did it, and is bounded:
whatever is not freed expires, or is freed with the lease of the worker that held it.

Every implementation passes `tests/transports/conformance/test_coordination.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


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

        The bucket is full when it is first used; rate and burst may differ from call to call, and the
        last ones hold. It is forgotten by itself once it would be full again.

        :param rate_per_s: tokens a second, above 0.
        :param burst: how many tokens it holds at most, at least 1.
        """

    def take_slot(self, name: str, limit: int, worker: str, holder: str) -> bool:
        """Take one of `limit` slots, or keep the one that `holder` has already.

        Slots of a worker whose lease has lapsed count as free.

        :param worker: as in `Transport.heartbeat`.
        :param holder: who runs something, unique in time; starts with the owner (`Consumer.owner`).
        """

    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back. Harmless when it is not held."""

    def free_slots_of(self, owner: str) -> int:
        """Free every slot whose holder starts with this owner, which is dead; how many there were."""

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock, for so long at most; None when it is ours now, else the value of its holder.

        To take it again with the same value prolongs it.
        """

    def relock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock from whoever has it; returns that holder's value, None when it was free."""

    def unlock(self, name: str, value: str) -> bool:
        """Free a lock if it still has this value; whether it had."""

    def locked(self, name: str) -> str | None:
        """The value of a lock, None when it is free."""

    def revoke(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember that these are revoked. At most 50,000 are kept; the oldest go first."""

    def revoked(self) -> list[str]:
        """What is revoked, oldest first. For a worker that starts."""
