"""The filesystem broker, seen from one process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..base import Capabilities, DeadLetter, Depth, Outgoing, Recovery, ResultStore, Waiting
from . import clock, deadletters, inspection, leases, owners, recovery, replay
from .append import Item, append, append_one
from .consumer import FilesystemConsumer
from .coordination import FilesystemCoordination
from .failures import broker_errors
from .fileops import FileOps
from .layout import NEVER_MS, hash64
from .mailbox import FilesystemControls
from .maintenance import Maintenance
from .messages import check_outgoing, item_of
from .pages import waiting
from .queuedir import QueueDir
from .queues import Queues
from .recovery import Charge
from .results import FilesystemResults
from .revocations import Revocations
from .schedule import promote
from .settle import Settler
from .store import Store
from .watch import QueueWatch

CAPABILITIES = Capabilities(name="filesystem", stores_results=True)


class FilesystemTransport(FilesystemControls, FilesystemCoordination):
    """See the port `Transport`.

    :param root: the broker's directory; made when it is not there.
    :param fsync: whatever is reported done survives a loss of power (docs/decisions/0002 has the cost).
    :param lock_timeout_s: how long another process may keep a lock before an operation gives up.
    :param ops: the system calls, for tests that make them fail.
    :raises UnsafeStorage: the directory cannot be trusted.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fsync: bool = False,
        lock_timeout_s: float = 5.0,
        ops: FileOps | None = None,
    ) -> None:
        self._store = Store(
            os.path.abspath(root), ops or FileOps(), fsync=fsync, lock_timeout_s=lock_timeout_s
        )
        self._queues = Queues(self._store)
        self._revocations = Revocations(self._store)
        self._maintenance = Maintenance(self._store, self._queues, self._revocations)

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do."""
        return CAPABILITIES

    def keeps(self, store: ResultStore) -> bool:
        """Whether the store has the same directory; see the port."""
        return isinstance(store, FilesystemResults) and store.root == self._store.root

    @broker_errors
    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages; see the port.

        :raises ValueError: a message has no queue or no usable due time; none was stored.
        :raises BrokerFull: there is no space; none was stored.
        :raises Unacceptable: a message is too large; none was stored.
        """
        by_queue: dict[str, list[Item]] = {}
        for message in messages:
            check_outgoing(message)
            by_queue.setdefault(message.queue, []).append(item_of(message))
        for name, items in by_queue.items():
            self._send_to(self._queues.get(name), items)

    def _send_to(self, queue: QueueDir, items: Sequence[Item]) -> None:
        queue.enter()
        try:
            if len(items) == 1:
                touched = [append_one(queue, items[0])]
            else:
                touched = [placed.segment for placed in append(queue, items)]
        finally:
            queue.lock.release()
        if self._store.fsync:
            for segment in {id(one): one for one in touched}.values():
                segment.sync()

    @broker_errors
    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> FilesystemConsumer:
        """A consumer of these queues; registers its owner."""
        leases.ensure_lease(self._store, worker)
        registered = owners.register(self._store, owner, worker)
        opened = [self._queues.get(name) for name in dict.fromkeys(queues)]
        settler = Settler(self._store, registered, self._queues)
        release = partial(
            recovery.recover_owner, self._store, self._queues, registered.id, owner, Charge("", 0)
        )
        return FilesystemConsumer(self._store, registered, opened, settler, release, self._queues.existing)

    @broker_errors
    def attach(self, owner: str) -> FilesystemConsumer:
        """A consumer that acts for an owner of another process; see the port."""
        found = owners.find(self._store, owner) or owners.unknown(self._store, owner)
        settler = Settler(self._store, found, self._queues)
        return FilesystemConsumer(self._store, found, (), settler, None)

    @broker_errors
    def watch(self, queues: Sequence[str]) -> QueueWatch:
        """A watch over these queues."""
        opened = [self._queues.get(name) for name in dict.fromkeys(queues)]
        for queue in opened:
            with queue.locked():
                queue.read_in()
        found = QueueWatch([f"{queue.path}/in" for queue in opened])
        if found.polling:
            self._store.notice("no inotify left: queues are looked at every 50 ms")
        return found

    @broker_errors
    def heartbeat(self, worker: str, lease_s: float) -> None:
        """Extend the lease of a worker."""
        leases.heartbeat(self._store, worker, lease_s)

    @broker_errors
    def unregister(self, worker: str) -> None:
        """Forget a worker; what its owners still hold returns untouched."""
        for one in owners.registered(self._store):
            if one.worker == worker:
                recovery.recover_owner(self._store, self._queues, one.id, one.name, Charge("", 0))
        leases.unregister(self._store, worker)

    @broker_errors
    def workers(self) -> list[str]:
        """Who works here; see `KnowsWorkers.workers`."""
        return leases.living_workers(self._store)

    @broker_errors
    def owners(self, worker: str) -> list[str]:
        """The owners that are registered for a worker."""
        return sorted(one.name for one in owners.registered(self._store) if one.worker == worker)

    @broker_errors
    def recover(
        self, owner: str, *, running: bytes | None = None, cause: str = "", max_crashes: int = 3
    ) -> Recovery:
        """Take back everything a dead owner held; see the port."""
        charge = Charge(cause, max_crashes, running)
        return recovery.recover_owner(self._store, self._queues, hash64(owner), owner, charge)

    @broker_errors
    def recover_lapsed(self, *, max_crashes: int = 3, cause: str = "worker lost") -> Recovery:
        """Recover every owner of every worker whose lease has run out; see the port."""
        return recovery.recover_lapsed(self._store, self._queues, max_crashes=max_crashes, cause=cause)

    @broker_errors
    def promote(self, limit: int = 1000) -> float | None:
        """Make due delayed messages ready; see the port."""
        next_ms = NEVER_MS
        for queue in self._queues.all():
            promoted, queue_next_ms = promote(queue, int(clock.wall_s() * 1000), limit)
            limit -= promoted
            next_ms = min(next_ms, queue_next_ms)
        return None if next_ms == NEVER_MS else next_ms / 1000

    @broker_errors
    def queues(self) -> list[str]:
        """Names of the queues that exist."""
        return self._queues.names()

    @broker_errors
    def depth(self, queue: str) -> Depth:
        """How many messages of a queue are where."""
        found = self._queues.existing(queue)
        return Depth(0, 0, 0) if found is None else inspection.depth(found)

    @broker_errors
    def ready(self, queues: Sequence[str]) -> int:
        """A cheap estimate, never 0 while something is ready."""
        total = 0
        for name in queues:
            queue = self._queues.existing(name)
            hints = None if queue is None else queue.hints()
            if hints is not None:
                total += sum(waiting(*hints))
            elif queue is not None:
                total += inspection.depth(queue).ready
        return total

    @broker_errors
    def peek(self, queue: str, limit: int = 100, *, delayed: bool = False) -> list[Waiting]:
        """The next messages of a queue (or of its schedule), without reserving them."""
        found = self._queues.existing(queue)
        if found is None:
            return []
        return inspection.peek_delayed(found, limit) if delayed else inspection.peek_ready(found, limit)

    @broker_errors
    def purge(self, queue: str) -> int:
        """Drop the ready and delayed messages of a queue; see the port."""
        found = self._queues.existing(queue)
        return 0 if found is None else inspection.purge(found)

    def dead_letters(self, limit: int = 100) -> Iterator[DeadLetter]:
        """Dead letters, oldest first."""
        return deadletters.dead_letters(self._store, limit)

    @broker_errors
    def dead_get(self, key: str) -> DeadLetter | None:
        """One dead letter."""
        return deadletters.read_dead_letter(self._store, key)

    @broker_errors
    def dead_replay(self, key: str) -> bool:
        """Put a dead letter back into its queue with a clean record; False if it is gone."""
        return replay.replay_dead_letter(self._store, self._queues, key)

    @broker_errors
    def dead_drop(self, key: str) -> bool:
        """Delete a dead letter; False if it is gone."""
        return deadletters.drop_dead_letter(self._store, key)

    @broker_errors
    def maintain(self) -> list[str]:
        """Bounded housekeeping; see the port."""
        return self._maintenance.run()

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""
        self._queues.close()
