"""The bridge to kombu as a transport."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, time

from ..base import (
    Capabilities,
    DeadLetter,
    Depth,
    Outgoing,
    Recovery,
    ResultStore,
    Waiting,
)
from ..errors import BrokerUnavailable, OwnerLost
from ..identifiers import fresh_id
from . import outbox
from .address import Address
from .consumer import KombuConsumer
from .gaps import capabilities_of
from .holdings import BrokerHoldings, Holdings, JournalHoldings, NoHoldings
from .journal import Journal
from .line import Line
from .parking import Parking
from .recovery import recover
from .watch import PollingWatch

FIRST_LEASE_S = 15.0
_PARKING_LEASE_S = 30.0


class KombuTransport:
    """Implements `transports.base.Transport` over any transport of kombu.

    :param wall: the clock of due times and leases, Unix time in seconds.
    """

    def __init__(self, address: Address, *, wall: Callable[[], float] = time) -> None:
        self._address = address
        self._wall = wall
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._line = Line(address)  # used under _lock
        self._parking: Parking | None = None  # used under _lock
        self._parking_worker = f"parking-{fresh_id()}"
        self._names = set(address.declarations)  # written under _lock
        self._watches: list[PollingWatch] = []  # written under _lock
        # Those of this process, where no journal knows them; written under _lock.
        self._consumers: dict[str, tuple[str, KombuConsumer]] = {}
        self._abandoned: set[str] = set()  # their workers are forgotten; written under _lock
        identity = f"{address.identity}-{self._pid}" if address.local else address.identity
        self._journal = Journal(identity) if address.takes else None

    @property
    def capabilities(self) -> Capabilities:
        """What kombu's transport can do; `Capabilities.gaps` says what is missing."""
        return capabilities_of(self._address)

    def keeps(self, store: ResultStore) -> bool:
        """See `Transport.keeps`: results are never settled with a message here."""
        return False

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages, as in `Transport.send`; an error may leave some of them sent.

        :raises ValueError: a message names no queue; none was sent.
        """
        for message in messages:
            outbox.check(message)
        with self._using() as line:
            for message in messages:
                outbox.send(line, message)
                self._names.add(message.queue)

    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> KombuConsumer:
        """Open a consumer with a connection of its own, as in `Transport.consumer`."""
        self._check_process()
        line = Line(self._address)
        for queue in queues:
            line.declare(queue)
        holdings = self._holdings(owner, worker, line)
        consumer = KombuConsumer(owner, line, holdings, queues, self._address.poll_s)
        with self._lock:
            self._names.update(queues)
            if self._journal is None:
                self._consumers[owner] = (worker, consumer)
        return consumer

    def _holdings(self, owner: str, worker: str, line: Line) -> Holdings:
        if self._journal is None:
            return BrokerHoldings(line)
        shelf = self._journal.register(worker, owner)
        if not self._journal.has_lease(worker):
            self._journal.extend(worker, self._wall() + FIRST_LEASE_S)
        return JournalHoldings(owner, shelf, line)

    def attach(self, owner: str) -> KombuConsumer:
        """Act for another's owner, as in `Transport.attach`."""
        line = Line(self._address)
        shelf = None if self._journal is None else self._journal.shelf(owner)
        holdings: Holdings = NoHoldings() if shelf is None else JournalHoldings(owner, shelf, line)
        return KombuConsumer(owner, line, holdings, None, self._address.poll_s)

    def watch(self, queues: Sequence[str]) -> PollingWatch:
        """Watch queues, as in `Transport.watch`: it fires at intervals, whatever happens."""
        watch = PollingWatch(self._address.poll_s)
        with self._lock:
            self._watches.append(watch)
        return watch

    def heartbeat(self, worker: str, lease_s: float) -> None:
        """Extend a lease, as in `Transport.heartbeat`; it holds on this host."""
        if self._journal is not None:
            self._journal.extend(worker, self._wall() + lease_s)

    def unregister(self, worker: str) -> None:
        """Forget a worker, as in `Transport.unregister`."""
        if self._journal is not None:
            self._journal.forget_worker(worker)
            return
        for owner in self.owners(worker):
            with self._lock:
                consumer = self._consumers[owner][1]
                if consumer.held():
                    self._abandoned.add(owner)
                else:
                    del self._consumers[owner]

    def owners(self, worker: str) -> list[str]:
        """List owners, as in `Transport.owners`; those on this host, or of this process."""
        if self._journal is not None:
            return self._journal.owners(worker)
        with self._lock:
            alive = {owner: known for owner, known in self._consumers.items() if not known[1].closed}
            self._consumers = alive
        return sorted(owner for owner, (its_worker, _) in alive.items() if its_worker == worker)

    def recover(
        self, owner: str, *, running: bytes | None = None, cause: str = "", max_crashes: int = 3
    ) -> Recovery:
        """Take back what an owner held, as in `Transport.recover`.

        Where the broker itself keeps what is not acknowledged, it returns what another process held,
        and nothing is counted.
        """
        charged = running if cause else None
        if self._journal is None:
            with self._lock:
                _worker, consumer = self._consumers.pop(owner, ("", None))
            if consumer is None:
                return Recovery()
            with consumer.retired() as (line, holdings):
                return recover(line, holdings, charged, cause, max_crashes, self._wall())
        shelf = self._journal.shelf(owner)
        if shelf is None:
            return Recovery()
        with self._using() as line:
            kept = JournalHoldings(owner, shelf.retire(), line)
            return recover(line, kept, charged, cause, max_crashes, self._wall())

    def recover_lapsed(self, *, max_crashes: int = 3, cause: str = "worker lost") -> Recovery:
        """Take back what lapsed workers of this host held, as in `Transport.recover_lapsed`.

        Nobody is charged: whether a message had been started is not known.
        """
        returned = 0
        if self._journal is None:
            with self._lock:
                abandoned, self._abandoned = self._abandoned, set()
            return Recovery(returned=sum(self.recover(owner).returned for owner in sorted(abandoned)))
        for worker in self._journal.lapsed(self._wall()):
            for owner in self._journal.owners(worker):
                returned += self.recover(owner).returned
            self._journal.forget_worker(worker)
        return Recovery(returned=returned)

    def promote(self, limit: int = 1000) -> float | None:
        """Return what is due to its queue, as in `Transport.promote`."""
        with self._using():
            if self._parking is None:
                line = Line(self._address)
                holdings = self._holdings(fresh_id(), self._parking_worker, line)
                self._parking = Parking(line, holdings, self._address.poll_s)
            self.heartbeat(self._parking_worker, _PARKING_LEASE_S)
            try:
                return self._parking.turn(limit, self._wall(), monotonic())
            except OwnerLost:
                # This process was stopped for so long that another has taken over what waited here.
                parking, self._parking = self._parking, None
                parking.close()
                return None

    def queues(self) -> list[str]:
        """List queues, as in `Transport.queues`: those that are configured, or used in this process."""
        with self._lock:
            return sorted(self._names)

    def depth(self, queue: str) -> Depth:
        """Count messages, as in `Transport.depth`; what is held, on this host or in this process."""
        if self._journal is not None:
            entries = list(self._journal.entries())
        else:
            with self._lock:
                consumers = [consumer for _, consumer in self._consumers.values()]
            entries = [entry for consumer in consumers for entry in consumer.held()]
        return Depth(
            ready=self.ready([queue]),
            delayed=sum(entry.home == queue for entry in entries),
            in_work=sum(entry.queue == queue for entry in entries),
        )

    def ready(self, queues: Sequence[str]) -> int:
        """Count ready messages, as in `Transport.ready`."""
        with self._using() as line:
            return sum(line.size(queue) for queue in set(queues))

    def peek(self, queue: str, limit: int = 100, *, delayed: bool = False) -> list[Waiting]:
        """See `Transport.peek`: with kombu a message is seen by reserving it, so nothing is shown."""
        return []

    def purge(self, queue: str) -> int:
        """Drop messages, as in `Transport.purge`; those that wait for their time are left alone."""
        with self._using() as line:
            return line.purge(queue)

    def dead_letters(self, limit: int = 100) -> Iterator[DeadLetter]:
        """See `Transport.dead_letters`: they are in the queue `outbox.GRAVEYARD`, not listed here."""
        return iter(())

    def dead_get(self, key: str) -> DeadLetter | None:
        """See `Transport.dead_get`."""
        return None

    def dead_replay(self, key: str) -> bool:
        """See `Transport.dead_replay`."""
        return False

    def dead_drop(self, key: str) -> bool:
        """See `Transport.dead_drop`."""
        return False

    def maintain(self) -> list[str]:
        """See `Transport.maintain`: there is nothing to do."""
        return []

    def close(self) -> None:
        """Return what waits here, close the connections and the watches. Safe to call twice."""
        if os.getpid() != self._pid:
            return  # connections and messages are those of the process that opened them
        with self._lock:
            consumers, self._consumers = self._consumers, {}
            parking, self._parking = self._parking, None
            watches, self._watches = self._watches, []
            for watch in watches:
                watch.close()
            for _worker, consumer in consumers.values():
                consumer.close()
            if parking is not None:
                parking.close()
                self.unregister(self._parking_worker)
            self._line.close()

    @contextmanager
    def _using(self) -> Iterator[Line]:
        self._check_process()
        with self._lock:
            yield self._line

    def _check_process(self) -> None:
        if os.getpid() == self._pid:
            return
        if self._address.local:
            raise BrokerUnavailable(
                f"{self._address.shown} belongs to process {self._pid}; process {os.getpid()} cannot see it. "
                "Use filesystem:// or a broker with a server for several processes"
            )
        raise BrokerUnavailable(
            f"{self._address.shown} was opened by process {self._pid}; a forked process opens its own"
        )
