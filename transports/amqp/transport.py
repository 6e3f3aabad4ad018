"""The AMQP transport: RabbitMQ, shared with Celery (interop §6)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time
from typing import Any

import amqp

from ..base import Capabilities, DeadLetter, Depth, Outgoing, Recovery, ResultStore, Waiting
from .absences import Absences
from .attached import AttachedConsumer, recover_held
from .broadcasts import declare_copies
from .consumer import AmqpConsumer
from .coordination import Agreements, AmqpCoordination
from .documents import starts_of, to_document
from .errors import Refused
from .graveyard import Graveyard, browse
from .mailbox import AmqpControls
from .obituaries import leave_word
from .publisher import Publisher
from .sending import check_outgoing, parcel_of
from .settings import AmqpSettings
from .strays import Strays
from .watch import TimerWatch

GAPS = (
    "a message and what follows from it are settled one after the other: dying in between repeats the latter",
    "nobody but its own child can return what it holds; it comes back when the child's connection ends",
    "queues that nobody declared in this process cannot be listed, nor held or delayed messages counted",
    "looking into a queue marks its messages as redelivered, so that each runs alone once",
    "RabbitMQ alone decides between the priorities of one queue (no worker_priority_fairness)",
)


class AmqpTransport(AmqpCoordination, AmqpControls):
    """Implements `Transport`, `coordination.Coordinates` and `mailbox.Controls` of `transports`.

    :param wall: the clock of due times and dates, Unix time in seconds.
    """

    def __init__(self, settings: AmqpSettings, *, wall: Callable[[], float] = time) -> None:
        self._settings = settings
        self._wall = wall
        self._publisher = Publisher(settings)
        self._graveyard = Graveyard(self._publisher, settings.dead_queue)
        self._strays = Strays(self._publisher, settings)
        self._guard = threading.Lock()
        # Written under the guard: what this process has open, and the queues that it knows of.
        self._agreements: Agreements | None = None
        self._consumers: dict[str, tuple[AmqpConsumer, str]] = {}
        self._watches: list[TimerWatch] = []
        self._seen = dict.fromkeys(settings.declarations)
        self._absences = Absences()

    @property
    def capabilities(self) -> Capabilities:
        """What RabbitMQ can do."""
        return Capabilities(
            name="amqp",
            priorities=True,
            strict_priorities=False,
            leases=False,
            recall_by_others=False,
            stores_results=False,
            inspects_schedule=False,
            lists_queues=False,
            counts_in_work=False,
            routes=True,
            shares_queues=False,
            rotates=False,
            hold_s_max=self._settings.consumer_timeout_s,
            gaps=GAPS,
        )

    def keeps(self, store: ResultStore) -> bool:
        """False, as in `Transport.keeps`: no results are settled with a message."""
        return False

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages, as in `Transport.send`.

        :raises ValueError: a message cannot be sent at all; none was.
        :raises BrokerFull: a memory or disk alarm, or a queue at its limit.
        :raises Unroutable: an exchange without a binding for it.
        :raises DeclarationClash: a queue is not what is configured.
        """
        for message in messages:
            check_outgoing(message)
        if not messages:
            return
        now_wall_s = self._wall()
        parcels = [parcel_of(message, now_wall_s, self._settings.leads) for message in messages]
        self._publisher.publish(parcels)
        self._note(message.queue for message in messages)

    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> AmqpConsumer:
        """Open a consumer, as in `Transport.consumer`. It connects on first use."""
        consumer = AmqpConsumer(self._settings, queues, owner, self._publisher, self._wall, self._closed)
        with self._guard:
            self._consumers[owner] = (consumer, worker)
        self._note(queues)
        declare_copies(self._publisher, self._settings, queues)
        return consumer

    def attach(self, owner: str) -> AttachedConsumer:
        """Act for another's owner, as in `Transport.attach`: nobody can, on AMQP, but it is harmless."""
        return AttachedConsumer(owner)

    def watch(self, queues: Sequence[str]) -> TimerWatch:
        """Watch queues, as in `Transport.watch`: it fires a few times a second."""
        watch = TimerWatch()
        with self._guard:
            self._watches.append(watch)
        return watch

    def heartbeat(self, worker: str, lease_s: float) -> None:
        """See that the broker is there; what a worker holds depends on its connections alone.

        :raises BrokerUnavailable: it is not.
        """
        self._publisher.ask(lambda channel: None)

    def unregister(self, worker: str) -> None:
        """Close the consumers of a worker in this process; the broker has no list of workers."""
        for consumer, its_worker in list(self._consumers.values()):
            if its_worker == worker:
                consumer.surrender(None, "")

    def owners(self, worker: str) -> list[str]:
        """List owners, as in `Transport.owners`: of this process."""
        with self._guard:
            return sorted(owner for owner, (_, its) in self._consumers.items() if its == worker)

    def recover(
        self, owner: str, *, running: bytes | None = None, cause: str = "", max_crashes: int = 3
    ) -> Recovery:
        """Take back what an owner held, as in `Transport.recover`.

        The broker has done so when its connection ended. What is left to be done is to bring back
        the suspect that it had started, at once and with the cause.
        """
        found = self._consumers.get(owner)
        returned = found[0].surrender(running, cause) if found is not None else 0
        recovery = recover_held(
            self._publisher,
            owner,
            cause=cause,
            max_crashes=max_crashes,
            dead_queue=self._settings.dead_queue,
            now_wall_s=self._wall(),
        )
        return Recovery(
            returned=returned + recovery.returned,
            crashed=recovery.crashed,
            dead=recovery.dead,
        )

    def entomb(self, message_id: str, note: bytes) -> None:
        """Leave word about a message, as in `Entombs.entomb`."""
        leave_word(self._publisher, message_id, note)

    def recover_lapsed(self, *, max_crashes: int = 3, cause: str = "worker lost") -> Recovery:
        """Nothing, as in `Transport.recover_lapsed`: the broker returns what a lost worker held."""
        return Recovery()

    def promote(self, limit: int = 1000) -> float | None:
        """The broker lets delayed messages go by itself; what then found no queue is brought to one."""
        self._strays.bring_home()
        return None

    def queues(self) -> list[str]:
        """List queues, as in `Transport.queues`: those that this process knows of and that exist."""
        with self._guard:
            names = list(self._seen)
        counts = self._counts(names)
        return [name for name in names if counts[name] is not None]

    def depth(self, queue: str) -> Depth:
        """Count messages, as in `Transport.depth`; of those in work, what this process holds."""
        with self._guard:
            consumers = [consumer for consumer, _ in self._consumers.values()]
        in_work = sum(consumer.in_work(queue) for consumer in consumers)
        return Depth(ready=self._counts([queue])[queue] or 0, delayed=0, in_work=in_work)

    def ready(self, queues: Sequence[str]) -> int:
        """Count ready messages, as in `Transport.ready`; see `Absences` for queues that do not exist."""
        with self._guard:
            asked = self._absences.worth_asking(dict.fromkeys(queues), monotonic())
        if not asked:
            return 0
        counts = self._counts(asked)
        with self._guard:
            self._absences.learn(counts, monotonic())
        return sum(count or 0 for count in counts.values())

    def peek(self, queue: str, limit: int = 100, *, delayed: bool = False) -> list[Waiting]:
        """Look at messages, as in `Transport.peek`; delayed ones cannot be seen.

        :raises Refused: the queue counts deliveries, and would drop what is looked at too often.
        """
        if delayed:
            return []
        if self._settings.declaration(queue).arguments.get("x-queue-type") == "quorum":
            raise Refused(
                f"queue {queue!r} is a quorum queue, which counts each look as a delivery and drops a "
                "message at its limit; look at it with RabbitMQ's own tools"
            )

        def look(channel: Any) -> list[Waiting]:
            return [
                Waiting(
                    queue=queue,
                    document=to_document(found.properties, found.body, "", queue, ""),
                    priority=int(found.properties.get("priority") or 0),
                    due_wall_s=None,
                    crashes=starts_of(found.properties),
                )
                for found in browse(channel, queue, limit)
            ]

        return list(self._publisher.ask(look))

    def purge(self, queue: str) -> int:
        """Drop messages, as in `Transport.purge`; delayed ones stay."""

        def drop(channel: Any) -> int:
            try:
                return int(channel.queue_purge(queue) or 0)
            except amqp.exceptions.NotFound:
                return 0

        return int(self._publisher.ask(drop))

    def dead_letters(self, limit: int = 100) -> Iterator[DeadLetter]:
        """List dead letters, as in `Transport.dead_letters`."""
        return iter(self._graveyard.letters(limit))

    def dead_get(self, key: str) -> DeadLetter | None:
        """Read a dead letter, as in `Transport.dead_get`."""
        return self._graveyard.get(key)

    def dead_replay(self, key: str) -> bool:
        """Send a dead letter again, as in `Transport.dead_replay`."""
        return self._graveyard.replay(key)

    def dead_drop(self, key: str) -> bool:
        """Delete a dead letter, as in `Transport.dead_drop`."""
        return self._graveyard.drop(key)

    def maintain(self) -> list[str]:
        """Nothing, as in `Transport.maintain`."""
        return []

    def close(self) -> None:
        """Close connections and watches. Safe to call twice."""
        with self._guard:
            watches, self._watches = self._watches, []
            consumers = [consumer for consumer, _ in self._consumers.values()]
            agreements, self._agreements = self._agreements, None
        if agreements is not None:
            agreements.close()
        for consumer in consumers:
            consumer.close()
        for watch in watches:
            watch.close()
        self._publisher.close()

    def _closed(self, consumer: AmqpConsumer) -> None:
        with self._guard:
            self._consumers.pop(consumer.owner, None)

    def _note(self, queues: Any) -> None:
        with self._guard:
            names = dict.fromkeys(queues)
            self._seen.update(names)
            self._absences.forget(names)

    def _counts(self, queues: Sequence[str]) -> dict[str, int | None]:
        """How many messages are ready in each; None for a queue that does not exist."""

        def count(channel: Any) -> dict[str, int | None]:
            found: dict[str, int | None] = {}
            for queue in queues:
                try:
                    found[queue] = int(channel.queue_declare(queue, passive=True).message_count)
                except amqp.exceptions.NotFound:
                    found[queue] = None  # py-amqp has opened the channel again
            return found

        result: dict[str, int | None] = self._publisher.ask(count)
        return result
