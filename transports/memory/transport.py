"""The memory transport: a broker inside one process, for tests and for a first try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time

from ..base import Capabilities, DeadLetter, Depth, Outgoing, Recovery, ResultStore, Waiting
from .consumer import MemoryConsumer
from .names import shared_broker
from .results import MemoryResults
from .watch import MemoryWatch

DEFAULT_LEASE_S = 15.0
EXPIRED_PER_MAINTAIN = 1000


class MemoryTransport:
    """Implements `transports.base.Transport`.

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
