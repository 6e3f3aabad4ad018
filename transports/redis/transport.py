"""The Redis broker, seen from one process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from weakref import WeakSet

from ..base import (
    Capabilities,
    DeadLetter,
    Depth,
    Outgoing,
    QueueDeclaration,
    Recovery,
    Released,
    ResultStore,
    Waiting,
    Watch,
)
from ..errors import BrokerUnavailable
from . import deadletters, inspection, recovery, registration, release, schedule
from .consumer import RedisConsumer
from .coordination import RedisCoordination, sweep
from .fanout import Fanout
from .foreign import Restorer
from .keys import Keys, encode
from .link import Link
from .mailbox import RedisControls
from .outcomes import Destinations, check_outgoing
from .owners import Registered, Sources, read_registered
from .pool import Pool
from .pooled import PooledLink
from .publish import Publisher
from .scripts import HEARTBEAT
from .settings import RedisSettings
from .watch import RedisWatch

# What has ended counts as ended at once; to sweep it away only saves memory.
_SWEEP_S: Final = 60.0

CAPABILITIES = Capabilities(
    name="redis",
    highest_priority_first=False,
    stores_results=True,
    routes=True,
    shares_queues=True,
    announces_schedule=True,
)
RELEASE_DEADLINE_S = 3600.0

_log = logging.getLogger("prefork.transports.redis")


class RedisTransport(RedisControls, RedisCoordination):
    """See the port `Transport`. Opens nothing before it is used.

    :param declarations: queue names -> `QueueDeclaration`.
    """

    def __init__(
        self, settings: RedisSettings, declarations: Mapping[str, QueueDeclaration] | None = None
    ) -> None:
        self._settings = settings
        self._keys = Keys(settings)
        self._pool = Pool(settings)
        self._publisher = Publisher(settings, self._pool, declarations or {})
        self._destinations = Destinations(self._keys, self._publisher, settings)
        self._fanout = Fanout(self._keys, self._publisher.bindings, self._pool)
        self._restorer = Restorer(settings, self._keys, self._publisher)
        # The worker that this process belongs to. Written by `heartbeat` and `consumer`.
        self._worker = ""
        # The queues that the watch of this process is for. Written by `watch`.
        self._watched: tuple[str, ...] = ()
        # Why owners of lapsed workers could not be recovered when that was tried last; said once each.
        # Written by the thread that recovers.
        self._unrecovered: frozenset[str] = frozenset()
        # When locks, slots and revocations were swept last. Written by the thread that maintains.
        self._swept_mono_s = float("-inf")
        # Links and watches that must be closed with this. Added by whoever opens one.
        self._opened: WeakSet[Any] = WeakSet()

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do."""
        return CAPABILITIES

    def keeps(self, store: ResultStore) -> bool:
        """Whether the store is on the same server, so that results can be settled with messages."""
        settings = getattr(store, "settings", None)
        return isinstance(settings, RedisSettings) and self._destinations.can_store_for(settings)

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages; see the port.

        :raises ValueError: a message has no queue or no usable due time; none was stored.
        """
        for message in messages:
            check_outgoing(message)
        self._publisher.send(messages)

    def send_within(self, messages: Sequence[Outgoing], within_s: float) -> None:
        """As `send`, with another deadline; see the protocol `SendsWithin`."""
        for message in messages:
            check_outgoing(message)
        self._publisher.send(messages, within_s)

    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> RedisConsumer:
        """A consumer of these queues; registers its owner, now or as soon as the broker is there."""
        keys = self._keys
        self._worker = worker
        own = self._fanout.own(dict.fromkeys(queues), worker)
        registered = Registered(worker, tuple(own), keys.steps)
        link = Link(self._settings, name=f"prefork:{owner}")
        self._opened.add(link)

        def register() -> None:
            self._destinations.declare(link, queues)
            registration.register(link, keys, owner, registered)

        sources = registered.sources(keys)
        consumer = RedisConsumer(
            link, keys, owner, sources, self._destinations, register=register, worker=worker
        )
        try:
            consumer.register()
        except BrokerUnavailable as error:
            _log.warning("%s; owner %s is registered when it reserves", error, owner)
        return consumer

    def attach(self, owner: str) -> RedisConsumer:
        """A consumer that acts for an owner of another process; see the port."""
        link = PooledLink(self._pool)
        entry = link.call("HGET", self._keys.owners, encode(owner))
        registered = None if entry is None else read_registered(entry)
        if registered is None:
            registered = Registered("", (), ())
        sources = registered.sources(self._keys)
        return RedisConsumer(link, self._keys, owner, sources, self._destinations)

    def watch(self, queues: Sequence[str]) -> Watch:
        """A watch over these queues."""
        names = self._fanout.own(dict.fromkeys(queues), self._worker)
        lists = Sources(self._keys, names, self._keys.steps).pairs()
        due = [self._keys.due(name) for name in names]
        listener = self._fanout.listener(queues, self._worker)
        watch = RedisWatch(self._settings, lists, due, listener=listener)
        self._opened.add(watch)
        self._watched = tuple(queues)
        return watch

    def heartbeat(self, worker: str, lease_s: float) -> None:
        """Extend the lease of a worker."""
        self._worker = worker
        with self._pool.link() as link:
            link.run(HEARTBEAT, [self._keys.workers], [encode(worker), lease_s])

    def unregister(self, worker: str) -> None:
        """Forget a worker; what its owners still hold returns untouched."""
        with self._pool.link() as link:
            recovery.unregister(link, self._keys, worker)
            self._fanout.forget(link, worker)

    def owners(self, worker: str) -> list[str]:
        """The owners that are registered for a worker."""
        with self._pool.link() as link:
            return recovery.owners(link, self._keys, worker)

    def recover(
        self, owner: str, *, running: bytes | None = None, cause: str = "", max_crashes: int = 3
    ) -> Recovery:
        """Take back everything a dead owner held; see the port."""
        with self._pool.link() as link:
            return recovery.recover_owner(
                link, self._keys, owner, running=running, cause=cause, max_crashes=max_crashes
            )

    def recover_lapsed(self, *, max_crashes: int = 3, cause: str = "worker lost") -> Recovery:
        """Recover every owner of every worker whose lease has run out; see the port."""
        with self._pool.link() as link:
            found, problems, forgotten = recovery.recover_lapsed(
                link, self._keys, max_crashes=max_crashes, cause=cause
            )
            for worker in forgotten:
                self._fanout.forget(link, worker)
        said, self._unrecovered = self._unrecovered, frozenset(map(str, problems))
        for line in sorted(self._unrecovered - said):
            _log.error("%s", line)
        return found

    def promote(self, limit: int = 1000) -> float | None:
        """Make due delayed messages ready; see the port."""
        with self._pool.link() as link:
            return schedule.promote(link, self._keys, limit)

    def queues(self) -> list[str]:
        """Names of the queues that somebody of ours has used."""
        with self._pool.link() as link:
            return inspection.queues(link, self._keys)

    def depth(self, queue: str) -> Depth:
        """How many messages of a queue are where."""
        with self._pool.link() as link:
            return inspection.depth(link, self._keys, queue)

    def ready(self, queues: Sequence[str]) -> int:
        """How many messages of these queues are ready."""
        with self._pool.link() as link:
            return inspection.ready(link, self._keys, self._fanout.own(queues, self._worker))

    def peek(self, queue: str, limit: int = 100, *, delayed: bool = False) -> list[Waiting]:
        """The next messages of a queue (or of its schedule), without reserving them."""
        with self._pool.link() as link:
            if delayed:
                return inspection.peek_delayed(link, self._keys, queue, limit)
            return inspection.peek(link, self._keys, queue, limit)

    def purge(self, queue: str) -> int:
        """Drop the ready and delayed messages of a queue; one that expires is forgotten. See the port."""
        expires = self._publisher.bindings.expires_ms(queue) is not None
        with self._pool.link() as link:
            return inspection.purge(link, self._keys, queue, forget=expires)

    def dead_letters(self, limit: int = 100) -> Iterator[DeadLetter]:
        """Dead letters, oldest first."""
        return deadletters.dead_letters(self._pool, self._keys, limit)

    def dead_get(self, key: str) -> DeadLetter | None:
        """One dead letter."""
        with self._pool.link() as link:
            return deadletters.dead_get(link, self._keys, key)

    def dead_replay(self, key: str) -> bool:
        """Put a dead letter back into its queue with a clean record; False if it is gone."""
        with self._pool.link() as link:
            return deadletters.dead_replay(link, self._keys, key)

    def dead_drop(self, key: str) -> bool:
        """Delete a dead letter; False if it is gone."""
        with self._pool.link() as link:
            return deadletters.dead_drop(link, self._keys, key)

    def maintain(self) -> list[str]:
        """Keep what expires, drop what has ended, and restore what dead Celery workers held."""
        with self._pool.link() as link:
            self._publisher.keep(link, self._watched)
            if time.monotonic() - self._swept_mono_s >= _SWEEP_S:
                sweep(link, self._keys)
                self._swept_mono_s = time.monotonic()
            return self._restorer.turn(link)

    def leases(self, queue: str | None = None) -> dict[str, float]:
        """Workers of ours whose lease goes on; see `Releases.leases`."""
        with self._pool.link() as link:
            return release.leases(link, self._keys, queue)

    def workers(self) -> list[str]:
        """Who works here; see `KnowsWorkers.workers`."""
        return sorted(self.leases())

    def release(self, queue: str | None = None, *, force: bool = False) -> Released:
        """Hand everything back to the lists that Celery's workers read; see `Releases.release`."""
        with self._pool.link(deadline_s=RELEASE_DEADLINE_S) as link:
            return release.release(link, self._keys, queue, force=force)

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for one in list(self._opened):
            one.close()
        self._pool.close()
