"""The memory transport: a broker inside one process, for tests and for a first try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time

from ..base import Capabilities, DeadLetter, Depth, Outgoing, Recovery, ResultStore, Waiting
from ..coordination import Grant, check_bucket, check_time
from .consumer import MemoryConsumer
from .mailbox import MemoryControls
from .names import shared_broker
from .results import MemoryResults
from .watch import MemoryWatch

DEFAULT_LEASE_S = 15.0
EXPIRED_PER_MAINTAIN = 1000


class MemoryTransport(MemoryControls):
    """Implements `transports.base.Transport` and `transports.coordination.Coordinates`.

    :param name: one broker per name and process; it lives as long as the process.
    :param wall: the clock of due times and dates, Unix time in seconds.
    :param mono: the clock of leases, in seconds.
    :param lease_s: the first lease of a worker that has not sent a heartbeat yet.
    """

    def __init__(
        self,
        name: str = "",
        *,
        wall: Callable[[], float] = time,
        mono: Callable[[], float] = monotonic,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> None:
        self._broker = shared_broker(name)
        self._mailboxes = self._broker.mailboxes
        self._wall = wall
        self._mono = mono
        self._lease_s = lease_s
        self._watches: list[MemoryWatch] = []  # written under the lock of the broker

    @property
    def capabilities(self) -> Capabilities:
        """Everything, but within one process."""
        return Capabilities(name="memory", stores_results=True, several_processes=False)

    def keeps(self, store: ResultStore) -> bool:
        """Whether it is the store of the same name, as in `Transport.keeps`."""
        return isinstance(store, MemoryResults) and store.belongs_to(self._broker)

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages, as in `Transport.send`.

        :raises ValueError: a message has no queue or no usable due time; none was stored.
        """
        with self._broker.locked():
            self._broker.send(messages, self._wall())

    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> MemoryConsumer:
        """Open a consumer, as in `Transport.consumer`."""
        with self._broker.locked():
            for queue in queues:
                self._broker.queues.declare(queue)
            self._broker.claims.register(owner, worker, self._mono() + self._lease_s)
        return MemoryConsumer(self._broker, owner, tuple(dict.fromkeys(queues)), self._wall)

    def attach(self, owner: str) -> MemoryConsumer:
        """Act for another's owner, as in `Transport.attach`."""
        return MemoryConsumer(self._broker, owner, None, self._wall)

    def watch(self, queues: Sequence[str]) -> MemoryWatch:
        """Watch queues, as in `Transport.watch`."""
        with self._broker.locked():
            watch = MemoryWatch(frozenset(queues), self._forget_watch)
            self._watches.append(watch)
            self._broker.add_watch(watch)
        return watch

    def heartbeat(self, worker: str, lease_s: float) -> None:
        """Extend a lease, as in `Transport.heartbeat`."""
        with self._broker.locked():
            self._broker.claims.extend(worker, self._mono() + lease_s)

    def unregister(self, worker: str) -> None:
        """Forget a worker, as in `Transport.unregister`; what it still holds can be recovered at once."""
        with self._broker.locked():
            self._broker.claims.forget_worker(worker)

    def workers(self) -> list[str]:
        """Who works here, as in `KnowsWorkers.workers`."""
        with self._broker.locked():
            return self._broker.claims.workers(self._mono())

    def owners(self, worker: str) -> list[str]:
        """List owners, as in `Transport.owners`."""
        with self._broker.locked():
            return self._broker.claims.owners(worker)

    def recover(
        self, owner: str, *, running: bytes | None = None, cause: str = "", max_crashes: int = 3
    ) -> Recovery:
        """Take back what an owner held, as in `Transport.recover`."""
        with self._broker.locked():
            return self._broker.recover(owner, running, cause, max_crashes, self._wall())

    def recover_lapsed(self, *, max_crashes: int = 3, cause: str = "worker lost") -> Recovery:
        """Take back what lapsed workers held, as in `Transport.recover_lapsed`."""
        with self._broker.locked():
            return self._broker.recover_lapsed(cause, max_crashes, self._wall(), self._mono())

    def promote(self, limit: int = 1000) -> float | None:
        """Make due messages ready, as in `Transport.promote`."""
        with self._broker.locked():
            return self._broker.promote(limit, self._wall())

    def queues(self) -> list[str]:
        """List queues, as in `Transport.queues`."""
        with self._broker.locked():
            return self._broker.queues.names()

    def depth(self, queue: str) -> Depth:
        """Count messages, as in `Transport.depth`."""
        with self._broker.locked():
            queues = self._broker.queues
            return Depth(
                ready=queues.ready(queue),
                delayed=queues.delayed(queue),
                in_work=self._broker.claims.in_work(queue),
            )

    def ready(self, queues: Sequence[str]) -> int:
        """Count ready messages, as in `Transport.ready`; here the count is exact."""
        with self._broker.locked():
            return sum(self._broker.queues.ready(queue) for queue in set(queues))

    def peek(self, queue: str, limit: int = 100, *, delayed: bool = False) -> list[Waiting]:
        """Look at messages, as in `Transport.peek`."""
        with self._broker.locked():
            return self._broker.queues.peek(queue, limit, delayed=delayed)

    def purge(self, queue: str) -> int:
        """Drop messages, as in `Transport.purge`."""
        with self._broker.locked():
            return self._broker.queues.purge(queue)

    def dead_letters(self, limit: int = 100) -> Iterator[DeadLetter]:
        """List dead letters, as in `Transport.dead_letters`."""
        with self._broker.locked():
            return iter(self._broker.graveyard.letters(limit))

    def dead_get(self, key: str) -> DeadLetter | None:
        """Read a dead letter, as in `Transport.dead_get`."""
        with self._broker.locked():
            return self._broker.graveyard.get(key)

    def dead_replay(self, key: str) -> bool:
        """Send a dead letter again, as in `Transport.dead_replay`."""
        with self._broker.locked():
            return self._broker.replay(key, self._wall())

    def dead_drop(self, key: str) -> bool:
        """Delete a dead letter, as in `Transport.dead_drop`."""
        with self._broker.locked():
            return self._broker.graveyard.remove(key) is not None

    def take_tokens(self, bucket: str, rate_per_s: float, burst: float, want: int) -> Grant:
        """Take tokens, as in `Coordinates.take_tokens`."""
        check_bucket(rate_per_s, burst, want)
        with self._broker.locked():
            return self._broker.agreements.take_tokens(bucket, rate_per_s, burst, want, self._mono())

    def take_slot(self, name: str, limit: int, worker: str, holder: str) -> bool:
        """Take a slot, as in `Coordinates.take_slot`."""
        with self._broker.locked():
            now_mono_s, claims = self._mono(), self._broker.claims
            return self._broker.agreements.take_slot(
                name, limit, worker, holder, lambda one: claims.lives(one, now_mono_s)
            )

    def free_slot(self, name: str, holder: str) -> None:
        """Give a slot back, as in `Coordinates.free_slot`."""
        with self._broker.locked():
            self._broker.agreements.free_slot(name, holder)

    def free_slots_of(self, owner: str) -> int:
        """Free what a dead owner held, as in `Coordinates.free_slots_of`."""
        with self._broker.locked():
            return self._broker.agreements.free_slots_of(owner)

    def lock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock, as in `Coordinates.lock`."""
        check_time("ttl_s", ttl_s)
        with self._broker.locked():
            return self._broker.agreements.lock(name, value, ttl_s, self._mono(), by_force=False)

    def relock(self, name: str, value: str, ttl_s: float) -> str | None:
        """Take a lock by force, as in `Coordinates.relock`."""
        check_time("ttl_s", ttl_s)
        with self._broker.locked():
            return self._broker.agreements.lock(name, value, ttl_s, self._mono(), by_force=True)

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        """Give a lock more time, as in `Coordinates.prolong`."""
        check_time("ttl_s", ttl_s)
        with self._broker.locked():
            return self._broker.agreements.prolong(name, value, ttl_s, self._mono())

    def unlock(self, name: str, value: str) -> bool:
        """Free a lock, as in `Coordinates.unlock`."""
        with self._broker.locked():
            return self._broker.agreements.unlock(name, value, self._mono())

    def locked(self, name: str) -> str | None:
        """Read a lock, as in `Coordinates.locked`."""
        with self._broker.locked():
            return self._broker.agreements.locked(name, self._mono())

    def revoke(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember revocations, as in `Coordinates.revoke`."""
        check_time("lifetime_s", lifetime_s)
        with self._broker.locked():
            self._broker.agreements.revoke(keys, lifetime_s, self._mono())

    def revoked(self) -> list[str]:
        """List revocations, as in `Coordinates.revoked`."""
        with self._broker.locked():
            return self._broker.agreements.revoked(self._mono())

    def revoked_mark(self) -> str:
        """Tell whether something was revoked, as in `Coordinates.revoked_mark`."""
        with self._broker.locked():
            return str(self._broker.agreements.revocations)

    def maintain(self) -> list[str]:
        """Drop expired results, as in `Transport.maintain`; there is never anything to report."""
        with self._broker.locked():
            self._broker.shelf.expire(EXPIRED_PER_MAINTAIN, self._wall())
        return []

    def close(self) -> None:
        """Close the watches of this handle; the broker stays with its messages."""
        for watch in list(self._watches):
            watch.close()

    def _forget_watch(self, watch: MemoryWatch) -> None:
        if not self._broker.is_ours:
            return  # the watches of the parent are not a child's to forget
        with self._broker.locked():
            self._broker.remove_watch(watch)
            if watch in self._watches:
                self._watches.remove(watch)
