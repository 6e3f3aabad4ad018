"""Every key of this transport in one place.

Lists of queues are kombu's (interop §5.1, §5.3). All others are ours, and stand below ``prefork:``
after the prefix that the whole application shares.

Records: a message that is more than its document bears a line before it, ended by a newline.

* in a schedule: ``<unique>:<step>:<crashes>[:<flags>:<causes>]``
* in a marked list: ``<crashes>:<flags>:<causes>``

`flags` is the sum of `FLAG_SUSPECT` and `FLAG_REDELIVERED`; `causes` is a JSON array of lines, or
nothing.
"""

from __future__ import annotations

from bisect import bisect_right

from .settings import RedisSettings

FLAG_SUSPECT = 1
FLAG_REDELIVERED = 2


class Keys:
    """The names of keys, as bytes. Immutable."""

    def __init__(self, settings: RedisSettings) -> None:
        self.prefix = settings.global_keyprefix.encode("utf-8", "surrogateescape")
        self.steps = tuple(sorted(settings.priority_steps))
        self.sep = settings.sep.encode("utf-8", "surrogateescape")
        self._own = own = self.prefix + b"prefork:"
        # owner -> JSON array [worker, queues, steps]; a fenced owner's begins with "!".
        self.owners = own + b"owners"
        # worker -> end of its lease, in seconds of the server's clock.
        self.workers = own + b"workers"
        # Source lists that have a marked list, and queues that have a schedule.
        self.marked_lists = own + b"marked"
        self.due_queues = own + b"due"
        # Names of the queues that somebody of ours has used.
        self.queues = own + b"queues"
        self.dead = own + b"dead"
        # Names of slots that somebody holds. What is revoked, by age and by its end (`coordination`).
        self.slot_names = own + b"slots"
        self.revoked = own + b"revoked"
        self.revoked_ends = own + b"revoked:ends"

    def step_of(self, priority: int) -> int:
        """The priority step that serves a priority: the largest that is not above it."""
        return self.steps[max(0, bisect_right(self.steps, priority) - 1)]

    def list_of(self, queue: str, priority: int) -> bytes:
        """The list of a queue that a priority goes to."""
        return self.list_of_step(encode(queue), self.step_of(priority))

    def list_of_step(self, queue: bytes, step: int) -> bytes:
        """The list of a queue and a step; step 0 has the bare name."""
        key = self.prefix + queue
        return key + self.sep + b"%d" % step if step else key

    def marked(self, source: bytes) -> bytes:
        """The list of the messages of a source list that have a record; served before it."""
        return self.marked_lists + b":" + source

    def due(self, queue: str) -> bytes:
        """The schedule of a queue."""
        return self.due_queues + b":" + encode(queue)

    def held(self, owner: str) -> bytes:
        """What an owner holds: tag -> document as it came."""
        return self._own + b"held:" + encode(owner)

    def scratch(self, owner: str) -> bytes:
        """Used for a moment, to find out what this user may do."""
        return self._own + b"preflight:" + encode(owner)

    def bucket(self, name: str) -> bytes:
        """The tokens of a shared bucket."""
        return self._own + b"bucket:" + encode(name)

    def slots(self, name: str) -> bytes:
        """Who holds slots of a name: holder -> worker."""
        return self.slot_names + b":" + encode(name)

    def lock(self, name: str) -> bytes:
        """The value of a lock."""
        return self._own + b"lock:" + encode(name)

    def worker(self, worker: str) -> bytes:
        """The owners of a worker."""
        return self._own + b"worker:" + encode(worker)


def encode(name: str) -> bytes:
    """A name as it stands in keys."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """What `encode` made, or whatever a foreigner wrote."""
    return name.decode("utf-8", "surrogateescape")
