"""Queues of fanout exchanges (broadcasts): a copy for every worker, by way of pub/sub.

A fanout message is published and stored nowhere, so it reaches the workers that listen at that
moment, and nobody later (interop §5.6). One connection of each worker listens, that of its watch; it
puts every message into a list of this worker's own, from which its children reserve under a name of
its own: what was received has all the guarantees of other messages, and goes with the worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .bindings import Bindings
from .keys import Keys, decode
from .link import Link
from .pool import Pool

OWN = "prefork:fanout:"
KEPT_S = 86_400
"""How long the copies of a worker that nobody could forget are kept."""


class Fanout:
    """Names the queues that copies for one worker wait in. Immutable."""

    def __init__(self, keys: Keys, bindings: Bindings, pool: Pool) -> None:
        self._keys = keys
        self._bindings = bindings
        self._pool = pool

    def concerns(self, queue: str) -> bool:
        """Whether the queue is bound to a fanout exchange."""
        return self._bindings.declaration(queue).exchange_type == "fanout"

    def own(self, queues: Iterable[str], worker: str) -> list[str]:
        """The queues that children of a worker reserve from: its copies come before the queue itself.

        The list of a broadcast queue fills when a client of Celery's that has not declared it takes its
        exchange for a direct one; one worker then runs what nobody would.
        """
        found: list[str] = []
        for queue in queues:
            found += [_name(queue, worker), queue] if self.concerns(queue) else [queue]
        return found

    def listener(self, queues: Iterable[str], worker: str) -> FanoutListener | None:
        """What a worker's watch does with broadcasts; None if none of the queues takes any."""
        listened = [queue for queue in queues if self.concerns(queue)]
        if not listened:
            return None
        places: dict[bytes, list[bytes]] = {}
        for queue in listened:
            pattern = self._bindings.subscription(self._bindings.declaration(queue)).encode()
            places.setdefault(pattern, []).append(self._keys.list_of(_name(queue, worker), 0))
        return FanoutListener(places, self._pool)

    def forget(self, link: Link, worker: str) -> None:
        """Drop the copies of a worker that is gone, whichever queues they came by."""
        keys = self._keys
        known = map(decode, link.call(b"SMEMBERS", keys.queues))
        for name in [name for name in known if name.startswith(_name("", worker))]:
            lists = [keys.list_of(name, step) for step in keys.steps]
            link.many(
                [
                    (b"DEL", keys.due(name), *lists, *map(keys.marked, lists)),
                    (b"SREM", keys.due_queues, name),
                    (b"SREM", keys.queues, name),
                    (b"SREM", keys.marked_lists, *lists),
                ]
            )


def _name(queue: str, worker: str) -> str:
    return f"{OWN}{worker}:{queue}"


class FanoutListener:
    """Puts what is published into lists; see `watch.Listener`."""

    def __init__(self, places: dict[bytes, list[bytes]], pool: Pool) -> None:
        self._places = places
        self._pool = pool

    @property
    def patterns(self) -> Sequence[bytes]:
        """The channels to listen to."""
        return list(self._places)

    def receive(self, pattern: bytes, document: bytes) -> None:
        """Keep a message."""
        with self._pool.link() as link:
            for place in self._places.get(pattern, ()):
                link.many([(b"LPUSH", place, document), (b"EXPIRE", place, KEPT_S)])
