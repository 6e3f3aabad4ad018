"""What workers of a memory broker agree on: buckets, slots, locks, revocations.

Every method is called under the lock of the broker; `now_mono_s` is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..coordination import REVOKED_MAX, Grant, Level, is_of

_SWEEP_EVERY = 1000
"""After how many buckets and locks taken those that have ended are dropped."""


class _Bucket(NamedTuple):
    level: Level
    at_mono_s: float
    full_at_mono_s: float


class _Lock(NamedTuple):
    value: str
    ends_mono_s: float


class Agreements:
    """Everything that is agreed on, in dictionaries; written under the lock of the broker."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._slots: dict[str, dict[str, str]] = {}  # name -> holder -> worker
        self._locks: dict[str, _Lock] = {}
        self._revoked: dict[str, float] = {}  # key -> end; in the order in which they were revoked
        self.revocations = 0
        self._taken = 0

    def take_tokens(self, name: str, rate_per_s: float, burst: float, want: int, now_mono_s: float) -> Grant:
        """Take tokens, as in `Coordinates.take_tokens`."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = _Bucket(Level(burst), now_mono_s, now_mono_s)
        elapsed_s = now_mono_s - bucket.at_mono_s
        level, grant = bucket.level.take(elapsed_s, rate_per_s, burst, want)
        full_at_mono_s = now_mono_s + level.full_after_s(rate_per_s, burst)
        self._buckets[name] = _Bucket(level, now_mono_s, full_at_mono_s)
        self._sweep(now_mono_s)
        return grant

    def take_slot(
        self, name: str, limit: int, worker: str, holder: str, lives: Callable[[str], bool]
    ) -> bool:
        """Take a slot, as in `Coordinates.take_slot`.

        :param lives: whether a worker has a lease.
        """
        held = {key: one for key, one in self._slots.get(name, {}).items() if key == holder or lives(one)}
        taken = holder in held or len(held) < limit
        if taken:
            held[holder] = worker
        self._put_slots(name, held)
        return taken

    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back."""
        held = self._slots.get(name, {})
        held.pop(holder, None)
        self._put_slots(name, held)

    def free_slots_of(self, owner: str) -> int:
        """Free the slots of an owner; how many there were."""
        freed = 0
        for name, held in list(self._slots.items()):
            left = {holder: worker for holder, worker in held.items() if not is_of(holder, owner)}
            freed += len(held) - len(left)
            self._put_slots(name, left)
        return freed

    def lock(self, name: str, value: str, ttl_s: float, now_mono_s: float, *, by_force: bool) -> str | None:
        """Take a lock, as in `Coordinates.lock`, or by force as in `Coordinates.relock`."""
        present = self.locked(name, now_mono_s)
        if by_force or present in (None, value):
            self._locks[name] = _Lock(value, now_mono_s + ttl_s)
            self._sweep(now_mono_s)
            return present if by_force else None
        return present

    def prolong(self, name: str, value: str, ttl_s: float, now_mono_s: float) -> bool:
        """Give a lock that has this value another end."""
        if self.locked(name, now_mono_s) != value:
            return False
        self._locks[name] = _Lock(value, now_mono_s + ttl_s)
        return True

    def unlock(self, name: str, value: str, now_mono_s: float) -> bool:
        """Free a lock that has this value."""
        if self.locked(name, now_mono_s) != value:
            return False
        del self._locks[name]
        return True

    def locked(self, name: str, now_mono_s: float) -> str | None:
        """The value of a lock."""
        present = self._locks.get(name)
        return None if present is None or present.ends_mono_s <= now_mono_s else present.value

    def revoke(self, keys: Sequence[str], lifetime_s: float, now_mono_s: float) -> None:
        """Remember revocations."""
        self.revocations += len(keys)
        for key in keys:
            self._revoked.pop(key, None)
            self._revoked[key] = now_mono_s + lifetime_s
        if len(self._revoked) > REVOKED_MAX:
            self._drop_revoked(now_mono_s)

    def revoked(self, now_mono_s: float) -> list[str]:
        """What is revoked, oldest first."""
        self._drop_revoked(now_mono_s)
        return list(self._revoked)

    def _drop_revoked(self, now_mono_s: float) -> None:
        living = [(key, end) for key, end in self._revoked.items() if end > now_mono_s]
        self._revoked = dict(living[-REVOKED_MAX:])

    def _sweep(self, now_mono_s: float) -> None:
        self._taken += 1
        if self._taken % _SWEEP_EVERY:
            return
        self._buckets = {key: one for key, one in self._buckets.items() if one.full_at_mono_s > now_mono_s}
        self._locks = {key: one for key, one in self._locks.items() if one.ends_mono_s > now_mono_s}

    def _put_slots(self, name: str, held: dict[str, str]) -> None:
        if held:
            self._slots[name] = held
        else:
            self._slots.pop(name, None)
