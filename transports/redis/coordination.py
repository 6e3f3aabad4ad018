"""What workers agree on through Redis: buckets, slots, locks, revocations.

Time is that of the server. Everything but the holders of slots has an end of its own; those are freed
with the lease of their worker, when somebody needs a slot or at the next housekeeping.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from ..coordination import REVOKED_MAX, Grant, check_bucket, check_time
from .keys import Keys, decode, encode
from .link import Arg, Link
from .pool import Pool
from .scripts import FREE_SLOT, LOCK, PROLONG, REVOKE, SWEEP_SLOTS, TAKE_SLOT, TAKE_TOKENS, UNLOCK

_CHUNK = 500
_TTL_MS_MAX = 10**14


class RedisCoordination:
    """Implements `transports.coordination.Coordinates` for a transport with these attributes."""

    _keys: Keys
    _pool: Pool

    def take_tokens(self, bucket: str, rate_per_s: float, burst: float, want: int) -> Grant:
        """Take tokens from a shared bucket; see the port."""
        check_bucket(rate_per_s, burst, want)
        with self._pool.link() as link:
            tokens, retry_after_s = link.run(
                TAKE_TOKENS, [self._keys.bucket(bucket)], [repr(float(rate_per_s)), repr(float(burst)), want]
            )
        return Grant(int(tokens), float(retry_after_s))

    def take_slot(self, name: str, limit: int, worker: str, holder: str) -> bool:
        """Take one of `limit` slots; see the port."""
        keys = self._keys
        with self._pool.link() as link:
            taken = link.run(
                TAKE_SLOT,
                [keys.slots(name), keys.workers, keys.slot_names],
                [limit, encode(worker), encode(holder), encode(name)],
            )
        return bool(taken)

    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back; see the port."""
        with self._pool.link() as link:
            link.run(
                FREE_SLOT,
                [self._keys.slots(name), self._keys.slot_names],
                [encode(holder), encode(name)],
            )

    def free_slots_of(self, owner: str) -> int:
        """Free what a dead owner held; see the port."""
        with self._pool.link() as link:
            return _sweep_slots(link, self._keys, owner)

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock unless somebody else has it; see the port."""
        return self._lock(name, value, ttl_s, by_force=False)

    def relock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock from whoever has it; see the port."""
        return self._lock(name, value, ttl_s, by_force=True)

    def _lock(self, name: str, value: str, ttl_s: float, *, by_force: bool) -> str | None:
        args: list[Arg] = [encode(value), _milliseconds(ttl_s), "1" if by_force else "0"]
        with self._pool.link() as link:
            return _text(link.run(LOCK, [self._keys.lock(name)], args))

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        """Give a lock that has this value another end; see the port."""
        args: list[Arg] = [encode(value), _milliseconds(ttl_s)]
        with self._pool.link() as link:
            return bool(link.run(PROLONG, [self._keys.lock(name)], args))

    def unlock(self, name: str, value: str) -> bool:
        """Free a lock that has this value; see the port."""
        with self._pool.link() as link:
            return bool(link.run(UNLOCK, [self._keys.lock(name)], [encode(value)]))

    def locked(self, name: str) -> str | None:
        """The value of a lock; see the port."""
        with self._pool.link() as link:
            return _text(link.call("GET", self._keys.lock(name)))

    def revoke(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember revocations; see the port."""
        check_time("lifetime_s", lifetime_s)
        with self._pool.link() as link:
            for at in range(0, len(keys), _CHUNK):
                _revoke(link, self._keys, keys[at : at + _CHUNK], lifetime_s)

    def revoked(self) -> list[str]:
        """What is revoked, oldest first; see the port."""
        with self._pool.link() as link:
            order, ends, (seconds, microseconds) = link.many(
                [
                    ("ZRANGE", self._keys.revoked, 0, -1),
                    ("ZRANGE", self._keys.revoked_ends, 0, -1, "WITHSCORES"),
                    ("TIME",),
                ]
            )
        now_wall_s = int(seconds) + int(microseconds) / 1e6
        living = {key for key, end in zip(ends[::2], ends[1::2], strict=True) if float(end) > now_wall_s}
        return [decode(key) for key in order if key in living]

    def revoked_mark(self) -> str:
        """The newest with its number, which no other had; see the port."""
        with self._pool.link() as link:
            newest = link.call("ZRANGE", self._keys.revoked, -1, -1, "WITHSCORES")
        return " ".join(map(decode, newest))


def sweep(link: Link, keys: Keys) -> None:
    """Drop what has ended and what workers without a lease hold. Part of the housekeeping."""
    _revoke(link, keys, (), 1.0)
    _sweep_slots(link, keys, "")


def _revoke(link: Link, keys: Keys, names: Sequence[str], lifetime_s: float) -> None:
    link.run(
        REVOKE,
        [keys.revoked, keys.revoked_ends],
        [repr(float(lifetime_s)), REVOKED_MAX, *map(encode, names)],
    )


def _sweep_slots(link: Link, keys: Keys, owner: str) -> int:
    names: list[bytes] = list(link.call("SMEMBERS", keys.slot_names))
    freed = 0
    for at in range(0, len(names), _CHUNK):
        chunk = names[at : at + _CHUNK]
        holders = [keys.slots(decode(name)) for name in chunk]
        freed += int(
            link.run(SWEEP_SLOTS, [keys.slot_names, keys.workers, *holders], [encode(owner), *chunk])
        )
    return freed


def _milliseconds(ttl_s: float) -> int:
    check_time("ttl_s", ttl_s)
    return min(ceil(ttl_s * 1000), _TTL_MS_MAX)


def _text(value: Any) -> str | None:
    return None if value is None else decode(value)
