"""What workers agree on through a directory: buckets, slots, locks, revocations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..coordination import Grant, Level, check_bucket, check_time, is_of
from . import agreements, clock, leases
from .agreements import BUCKETS, LOCKS, SLOTS, Span, begun, lock_of, path_of
from .failures import broker_errors
from .revocations import Revocations
from .store import Store


class FilesystemCoordination:
    """Implements `transports.coordination.Coordinates` for a transport with these attributes."""

    _store: Store
    _revocations: Revocations

    @broker_errors
    def take_tokens(self, bucket: str, rate_per_s: float, burst: float, want: int) -> Grant:
        """Take tokens from a shared bucket; see the port."""
        check_bucket(rate_per_s, burst, want)
        path = path_of(self._store, BUCKETS, bucket)
        with lock_of(self._store, path):
            level, elapsed_s = _level(agreements.read(self._store, path), burst)
            level, grant = level.take(elapsed_s, rate_per_s, burst, want)
            full = begun(level.full_after_s(rate_per_s, burst))
            if full.ttl_s > 0:
                agreements.write(self._store, path, {"tokens": level.tokens, "full": full})
            else:
                self._store.ops.unlink_if_there(path)
        return grant

    @broker_errors
    def take_slot(self, name: str, limit: int, worker: str, holder: str) -> bool:
        """Take one of `limit` slots; see the port."""
        path = path_of(self._store, SLOTS, name)
        with lock_of(self._store, path):
            held = read_slots(self._store, path)
            if holder not in held and len(held) >= limit:
                left = living(self._store, held)
                if len(left) >= limit:
                    if len(left) < len(held):
                        write_slots(self._store, path, left)
                    return False
                held = left
            held[holder] = worker
            agreements.write(self._store, path, held)
        return True

    @broker_errors
    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back; see the port."""
        path = path_of(self._store, SLOTS, name)
        with lock_of(self._store, path):
            held = read_slots(self._store, path)
            if held.pop(holder, None) is not None:
                write_slots(self._store, path, held)

    @broker_errors
    def free_slots_of(self, owner: str) -> int:
        """Free what a dead owner held; see the port."""
        freed = 0
        for path in agreements.paths(self._store, SLOTS):
            with lock_of(self._store, path):
                held = read_slots(self._store, path)
                left = {holder: worker for holder, worker in held.items() if not is_of(holder, owner)}
                if len(left) < len(held):
                    freed += len(held) - len(left)
                    write_slots(self._store, path, left)
        return freed

    @broker_errors
    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock unless somebody else has it; see the port."""
        check_time("ttl_s", ttl_s)
        path = path_of(self._store, LOCKS, name)
        with lock_of(self._store, path):
            present = read_lock(self._store, path)
            if present is None or present == value:
                agreements.write(self._store, path, {"value": value, "span": begun(ttl_s)})
                return None
        return present

    @broker_errors
    def relock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock from whoever has it; see the port."""
        check_time("ttl_s", ttl_s)
        path = path_of(self._store, LOCKS, name)
        with lock_of(self._store, path):
            present = read_lock(self._store, path)
            agreements.write(self._store, path, {"value": value, "span": begun(ttl_s)})
        return present

    @broker_errors
    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        """Give a lock that has this value another end; see the port."""
        check_time("ttl_s", ttl_s)
        path = path_of(self._store, LOCKS, name)
        with lock_of(self._store, path):
            if read_lock(self._store, path) != value:
                return False
            agreements.write(self._store, path, {"value": value, "span": begun(ttl_s)})
        return True

    @broker_errors
    def unlock(self, name: str, value: str) -> bool:
        """Free a lock that has this value; see the port."""
        path = path_of(self._store, LOCKS, name)
        with lock_of(self._store, path):
            return read_lock(self._store, path) == value and self._store.ops.unlink_if_there(path)

    @broker_errors
    def locked(self, name: str) -> str | None:
        """The value of a lock; see the port."""
        path = path_of(self._store, LOCKS, name)
        with lock_of(self._store, path):
            return read_lock(self._store, path)

    @broker_errors
    def revoke(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember revocations; see the port."""
        check_time("lifetime_s", lifetime_s)
        self._revocations.add(keys, lifetime_s)

    @broker_errors
    def revoked(self) -> list[str]:
        """What is revoked, oldest first; see the port."""
        return self._revocations.living()

    @broker_errors
    def revoked_mark(self) -> str:
        """Whether something was revoked; see the port."""
        return self._revocations.mark()


def read_lock(store: Store, path: str) -> str | None:
    """The value of a lock that goes on."""
    found = agreements.read(store, path)
    span = _span(found, "span")
    if found is None or span is None or span.over(begun()):
        return None
    return str(found.get("value"))


def bucket_is_full(store: Store, path: str) -> bool:
    """Whether a bucket would be full by now, so that it says nothing any more."""
    span = _span(agreements.read(store, path), "full")
    return span is None or span.over(begun())


def read_slots(store: Store, path: str) -> dict[str, str]:
    """Who holds slots: holder -> worker."""
    found = agreements.read(store, path) or {}
    return {holder: worker for holder, worker in found.items() if isinstance(worker, str)}


def write_slots(store: Store, path: str, held: dict[str, str]) -> None:
    """Keep who holds slots. A file that says nobody does waits for the next one, or the housekeeping."""
    agreements.write(store, path, dict(held))


def living(store: Store, held: dict[str, str]) -> dict[str, str]:
    """The holders whose worker has a lease."""
    alive = {worker for worker in set(held.values()) if leases.lives(store, worker)}
    return {holder: worker for holder, worker in held.items() if worker in alive}


def _level(found: dict[str, Any] | None, burst: float) -> tuple[Level, float]:
    """What was in a bucket, and how many seconds ago; full after another start of the machine."""
    span = _span(found, "full")
    tokens = None if found is None else found.get("tokens")
    if span is None or span.boot_id != clock.boot_id() or not isinstance(tokens, int | float):
        return Level(burst), 0.0
    return Level(tokens), (clock.boot_ns() - span.boot_ns) / 1e9


def _span(found: dict[str, Any] | None, name: str) -> Span | None:
    written: Any = None if found is None else found.get(name)
    try:
        boot_id, boot_ns, wall_s, ttl_s = written
        return Span(str(boot_id), int(boot_ns), float(wall_s), float(ttl_s))
    except (TypeError, ValueError):
        return None  # damaged: it says nothing, and is replaced by who comes next
