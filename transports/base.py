"""The ports of a broker and of a result store, and the values that cross them.

Both ports are synchronous and batch-first, and are shaped by the worker loop that calls them.
Every implementation passes the same conformance suite (``tests/transports/conformance``).
The values are frozen structs that msgspec encodes as they are, because the outcome of a task must
be able to survive, in shared memory, the process that computed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

TAG_BYTES_MAX = 62
"""An upper bound for `Delivery.tag`: tags are kept in fixed-size fields of the scoreboard."""

REASON_CRASHES = "crashes"
"""`DeadLetter.reason` of a message that reached the crash limit."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as kombu thinks of it, before a transport gives it a form.

    `body` is the serialized (and possibly compressed) payload.
    """

    body: bytes
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]


class Outgoing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message to be sent.

    Document transports store `document` as it is; it is the kombu envelope that
    `transports.envelope.encode` makes of a `Message`.

    :param queue: the exact name of the queue.
    :param document: the envelope, kombu's JSON (interop §1.1).
    :param priority: 0 to 9, as the caller gave it; what it means is the transport's business.
    :param due_wall_s: Unix time before which nobody may reserve the message; None means at once.
    """

    queue: str
    document: bytes
    priority: int = 0
    due_wall_s: float | None = None


class Delivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message that a consumer holds until it settles it, gives it back, or dies.

    :param tag: opaque, at most `TAG_BYTES_MAX` bytes; names this delivery of this message to this
        owner in this batch, and is never reused.
    :param crashes: how many processes died while they ran this message.
    :param suspect: the message was held by a worker that vanished, so it may be what killed it.
        A suspect is reserved alone; call `Consumer.mark_started` before running it.
    """

    tag: bytes
    queue: str
    document: bytes
    priority: int = 0
    crashes: int = 0
    suspect: bool = False
    redelivered: bool = False


class StoredResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A result document on its way into a store.

    :param key: the task id.
    :param document: encoded result document (interop §8.2).
    :param expires_s: lifetime in seconds from now; None keeps it.
    :param final: the document's state is a ready one (SUCCESS, FAILURE, REVOKED).
    """

    key: str
    document: bytes
    expires_s: float | None = None
    final: bool = True


class Verdict(IntEnum):
    """What becomes of a delivery. A closed set: a transport refuses anything else."""

    ACK = 0
    REQUEUE = 1
    DEFER = 2
    DEAD = 3


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How one delivery is settled. Verdict, results and follow-ups stand or fall together.

    :param due_wall_s: for DEFER: when the message may be reserved again.
    :param reason: for DEAD: a short machine-readable code such as ``"unknown-task"``.
    :param causes: for DEAD: one line of text per cause, oldest first.
    :param follow_ups: messages that become visible with the verdict (retry, callback).
    :param results: results that become readable with the verdict. Only given to a transport whose
        `Capabilities.stores_results` is true.
    :param crashed: for REQUEUE: the delivery counts as a crash of its process.
    """

    tag: bytes
    verdict: Verdict = Verdict.ACK
    due_wall_s: float | None = None
    reason: str = ""
    causes: tuple[str, ...] = ()
    follow_ups: tuple[Outgoing, ...] = ()
    results: tuple[StoredResult, ...] = ()
    crashed: bool = False


class Depth(msgspec.Struct, frozen=True):
    """How many messages of one queue are where."""

    ready: int
    delayed: int
    in_work: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that nobody will run again unless somebody says so.

    :param key: names the letter in `dead_get`, `dead_replay` and `dead_drop`.
    :param document: the raw bytes, as they came.
    :param died_wall_s: Unix time.
    """

    key: str
    queue: str
    reason: str
    causes: tuple[str, ...]
    document: bytes
    priority: int
    crashes: int
    died_wall_s: float


class Waiting(msgspec.Struct, frozen=True):
    """A message seen without being reserved (inspection)."""

    queue: str
    document: bytes
    priority: int
    due_wall_s: float | None
    crashes: int


class Recovery(msgspec.Struct, frozen=True):
    """What `Transport.recover` did.

    :param returned: messages that are ready again.
    :param crashed: documents of returned messages that were charged with a crash.
    :param dead: letters written because the crash limit was reached.
    """

    returned: int = 0
    suspects: int = 0
    crashed: tuple[bytes, ...] = ()
    dead: tuple[DeadLetter, ...] = ()


class Capabilities(msgspec.Struct, frozen=True):
    """What a transport can do; an option that it cannot honour refuses at start."""

    name: str
    priorities: bool = True
    highest_priority_first: bool = True
    schedule: bool = True
    dead_letters: bool = True
    leases: bool = True
    recall_by_others: bool = True
    stores_results: bool = False
    inspection: bool = True
    several_processes: bool = True
    gaps: tuple[str, ...] = ()


@runtime_checkable
class Watch(Protocol):
    """Says, without polling, that a queue may have something to reserve.

    A watch may fire without cause; it never stays silent when a message became ready after the
    last `drain`.
    """

    def fileno(self) -> int:
        """A descriptor that polls readable when something may be ready."""

    def drain(self) -> None:
        """Forget what fired so far. Call it before looking, not after."""

    def close(self) -> None:
        """Release the descriptor. Safe to call twice."""


@runtime_checkable
class Consumer(Protocol):
    """Reserves messages for one owner. Used by one thread of one process."""

    @property
    def owner(self) -> str:
        """The incarnation that holds what this consumer reserves; never reused."""

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Take up to `max_n` messages, best priority first, oldest first within one priority.

        Due delayed messages are promoted first (bounded). A suspect comes alone.

        :param timeout_s: how long to wait for the first message; 0 does not wait.
        :raises BrokerUnavailable: the broker cannot be reached.
        :raises OwnerLost: the owner was recovered or closed, or this consumer is only attached to it.
        """

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle deliveries; False for one that was taken back by somebody meanwhile.

        For a False nothing of the outcome was written: no result, no follow-up. Settling twice is
        harmless: the second call answers False.

        :raises ValueError: a verdict is none, or DEFER comes without a time; nothing was settled.
        """

    def give_back(self, tags: Sequence[bytes]) -> int:
        """Return unstarted messages, untouched, to where they came from, in order.

        :returns: how many were still held.
        """

    def mark_started(self, tag: bytes) -> bool:
        """Record in the broker that a suspect is about to run; False if no longer held."""

    def fetch(self, tag: bytes) -> Delivery | None:
        """Read a delivery that this owner still holds, or None."""

    def close(self) -> None:
        """Give back whatever is held and forget the owner. Safe to call twice."""


class Transport(Protocol):
    """One broker, seen from one process. Safe to use from several threads; not across a fork."""

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages; on return each is safe with the broker. All or none per call and queue.

        :raises BrokerUnavailable: with `outcome_unknown` when the messages may have been stored.
        """

    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> Consumer:
        """A consumer of these queues. Registers `owner` as held by `worker`."""

    def attach(self, owner: str) -> Consumer:
        """A consumer that acts for an owner of another process, which is stopped or dead.

        It may settle, give back and fetch, and never reserves. Closing it changes nothing.
        """

    def watch(self, queues: Sequence[str]) -> Watch:
        """A watch over these queues."""

    def heartbeat(self, worker: str, lease_s: float) -> None:
        """Extend the lease of a worker (and register it, the first time)."""

    def unregister(self, worker: str) -> None:
        """Forget a worker that holds nothing any more."""

    def owners(self, worker: str) -> list[str]:
        """The owners that are registered for a worker."""

    def recover(
        self,
        owner: str,
        *,
        running: bytes | None = None,
        cause: str = "",
        max_crashes: int = 3,
    ) -> Recovery:
        """Take back everything a dead owner held, finish or undo what it was settling, forget it.

        :param running: tag of the message that was running: it is charged with one crash, goes to
            the dead letters when it has `max_crashes` of them, and all others return untouched.
            None with an empty `cause` charges nothing.
        :param cause: why the owner died; None of the messages is charged when it is empty.
        """

    def recover_lapsed(self, *, max_crashes: int = 3, cause: str = "worker lost") -> Recovery:
        """Recover every owner of every worker whose lease has run out; all become suspects.

        A suspect whose start was recorded (`Consumer.mark_started`) is charged with a crash.
        """

    def promote(self, limit: int = 1000) -> float | None:
        """Make due delayed messages ready; return the Unix time of the next one, if known."""

    def queues(self) -> list[str]:
        """Names of the queues that exist."""

    def depth(self, queue: str) -> Depth:
        """How many messages of a queue are where. Zeros for a queue that does not exist."""

    def ready(self, queues: Sequence[str]) -> int:
        """A cheap estimate, never 0 while something is ready, of how many messages wait."""

    def peek(self, queue: str, limit: int = 100, *, delayed: bool = False) -> list[Waiting]:
        """The next messages of a queue (or of its schedule), without reserving them."""

    def purge(self, queue: str) -> int:
        """Drop the ready and delayed messages of a queue; those in work are left alone."""

    def dead_letters(self, limit: int = 100) -> Iterator[DeadLetter]:
        """Dead letters, oldest first."""

    def dead_get(self, key: str) -> DeadLetter | None:
        """One dead letter."""

    def dead_replay(self, key: str) -> bool:
        """Put a dead letter back into its queue with a clean record; False if it is gone."""

    def dead_drop(self, key: str) -> bool:
        """Delete a dead letter; False if it is gone."""

    def maintain(self) -> list[str]:
        """Bounded housekeeping: quarantine foreign objects, drop expired results.

        :returns: one line of text per thing that an operator should know.
        """

    def close(self) -> None:
        """Release connections and descriptors. Safe to call twice."""


class ResultStore(Protocol):
    """Where results live. Safe to use from several threads; not across a fork."""

    def store(self, results: Sequence[StoredResult]) -> None:
        """Write result documents; a stored SUCCESS is never overwritten.

        :raises ResultStoreUnavailable: the store cannot be reached.
        """

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read documents, None for a key that has none or has expired."""

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """Wait until at least one of the keys has a *final* document, or the time is over.

        One channel per process serves every waiter. Returns the final documents found, possibly
        none.
        """

    def forget(self, keys: Sequence[str]) -> None:
        """Delete documents."""

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        """Store a group document."""

    def get_group(self, group_id: str) -> bytes | None:
        """Read a group document."""

    def forget_group(self, group_id: str) -> None:
        """Delete a group document."""

    def expire(self, limit: int = 1000) -> int:
        """Drop up to `limit` expired documents; returns how many."""

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
