"""What workers agree on through RabbitMQ (docs/decisions/0013): buckets, slots, locks, revocations."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from ..coordination import Grant, Level, check_bucket, check_time
from .publisher import Publisher
from .revocations import Revocations
from .session import Session
from .settings import AmqpSettings
from .slots import Slots
from .turns import Entry, Tables, Turns


class Agreements:
    """Everything that one process needs for it: two connections, and one to publish on.

    :param publisher: used if it has its messages confirmed; else another is opened.
    """

    def __init__(self, settings: AmqpSettings, publisher: Publisher, wall: Callable[[], float]) -> None:
        self._own_publisher = None if settings.confirms else Publisher(_confirming(settings), "agreements")
        publisher = self._own_publisher or publisher
        self._session = Session(settings, "agreements", beats=True)
        turns = Turns(self._session)
        self.slots = Slots(Session(settings, "slots", beats=False), turns)
        self.revocations = Revocations(self._session, turns, publisher, wall)
        self.locks = Tables("locks", self._session, turns, publisher, wall=wall, persistent=True)
        self.buckets = Tables("buckets", self._session, turns, publisher, wall=wall, persistent=False)

    def close(self) -> None:
        """Give back the slots of this process. Safe to call twice."""
        self.slots.close()
        self._session.close()
        if self._own_publisher is not None:
            self._own_publisher.close()


def _confirming(settings: AmqpSettings) -> AmqpSettings:
    return dataclasses.replace(settings, confirms=True)


class AmqpCoordination:
    """The part of the AMQP transport that implements `transports.coordination.Coordinates`."""

    _settings: AmqpSettings
    _publisher: Publisher
    _wall: Callable[[], float]
    _guard: threading.Lock
    _agreements: Agreements | None

    def _agreed(self) -> Agreements:
        with self._guard:
            if self._agreements is None:
                self._agreements = Agreements(self._settings, self._publisher, self._wall)
            return self._agreements

    def take_tokens(self, bucket: str, rate_per_s: float, burst: float, want: int) -> Grant:
        """Take tokens, as in `Coordinates.take_tokens`. Times are those of the workers' clocks."""
        check_bucket(rate_per_s, burst, want)

        def decide(present: Entry | None, now_wall_s: float) -> tuple[Entry | None, Grant]:
            level, elapsed_s = Level(burst), 0.0
            if present is not None:
                level, elapsed_s = Level(present.number), now_wall_s - present.at_wall_s
            level, grant = level.take(elapsed_s, rate_per_s, burst, want)
            if not grant.tokens and elapsed_s >= 0:
                return present, grant
            full_after_s = level.full_after_s(rate_per_s, burst)
            ends_wall_s = now_wall_s + full_after_s
            return Entry(ends_wall_s, full_after_s, number=level.tokens, at_wall_s=now_wall_s), grant

        return self._agreed().buckets.change(bucket, decide)

    def take_slot(self, name: str, limit: int, worker: str, holder: str) -> bool:
        """Take a slot, as in `Coordinates.take_slot`. It is freed with the connection of this process."""
        return self._agreed().slots.take(name, limit, holder)

    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back, as in `Coordinates.free_slot`."""
        self._agreed().slots.free(name, holder)

    def free_slots_of(self, owner: str) -> int:
        """Free what an owner of this process holds; the broker has freed what dead ones did."""
        return self._agreed().slots.free_all_of(owner)

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock, as in `Coordinates.lock`."""
        return self._lock(name, value, ttl_s, by_force=False)

    def relock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock by force, as in `Coordinates.relock`."""
        return self._lock(name, value, ttl_s, by_force=True)

    def _lock(self, name: str, value: str, ttl_s: float, *, by_force: bool) -> str | None:
        check_time("ttl_s", ttl_s)

        def decide(present: Entry | None, now_wall_s: float) -> tuple[Entry | None, str | None]:
            holder = None if present is None else present.text
            if by_force or holder in (None, value):
                return Entry(now_wall_s + ttl_s, ttl_s, text=value), holder if by_force else None
            return present, holder

        return self._agreed().locks.change(name, decide)

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        """Prolong a lock, as in `Coordinates.prolong`."""
        check_time("ttl_s", ttl_s)

        def decide(present: Entry | None, now_wall_s: float) -> tuple[Entry | None, bool]:
            if present is None or present.text != value:
                return present, False
            return Entry(now_wall_s + ttl_s, ttl_s, text=value), True

        return self._agreed().locks.change(name, decide)

    def unlock(self, name: str, value: str) -> bool:
        """Free a lock, as in `Coordinates.unlock`."""

        def decide(present: Entry | None, now_wall_s: float) -> tuple[Entry | None, bool]:
            if present is None or present.text != value:
                return present, False
            return None, True

        return self._agreed().locks.change(name, decide)

    def locked(self, name: str) -> str | None:
        """Read a lock, as in `Coordinates.locked`."""
        return self._agreed().locks.change(
            name, lambda present, now_wall_s: (present, None if present is None else present.text)
        )

    def revoke(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember revocations, as in `Coordinates.revoke`."""
        check_time("lifetime_s", lifetime_s)
        self._agreed().revocations.add(keys, lifetime_s)

    def revoked(self) -> list[str]:
        """List revocations, as in `Coordinates.revoked`."""
        return self._agreed().revocations.read()

    def revoked_mark(self) -> str:
        """Count messages of revocations, as in `Coordinates.revoked_mark`."""
        return self._agreed().revocations.mark()
