"""The ports of a broker and of a result store, and the values that cross them.

Both ports are synchronous and batch-first, and are shaped by the worker loop that calls them.
Every implementation passes the same conformance suite (``tests/transports/conformance``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from .selecting import Rotates, Selects
from .values import (
    REASON_CRASHES,
    TAG_BYTES_MAX,
    Capabilities,
    DeadLetter,
    Delivery,
    Depth,
    Message,
    Outcome,
    Outgoing,
    QueueDeclaration,
    Recovery,
    Released,
    StoredResult,
    Verdict,
    Waiting,
)

__all__ = [
    "Answers",
    "Capabilities",
    "Consumer",
    "Counts",
    "DeadLetter",
    "Delivery",
    "Depth",
    "Entombs",
    "Flushes",
    "Informs",
    "Message",
    "Outcome",
    "Outgoing",
    "QueueDeclaration",
    "REASON_CRASHES",
    "Recovery",
    "Released",
    "Releases",
    "ResultStore",
    "Rotates",
    "Selects",
    "SendsWithin",
    "StoredResult",
    "TAG_BYTES_MAX",
    "Transport",
    "Verdict",
    "Waiting",
    "Wakeable",
    "Watch",
]


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
class Counts(Protocol):
    """A watch that knows how many messages wait."""

    def waiting(self) -> int | None:
        """How many messages waited at the last `Watch.drain`, if the watch fires should that change.

        None when the transport must be asked.
        """


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


@runtime_checkable
class Informs(Protocol):
    """A consumer that can store a document without waiting, in step with what it settles."""

    def inform(self, tag: bytes, results: Sequence[StoredResult], *, more: bool = False) -> None:
        """Store documents about a delivery, unless it is settled or taken back by then.

        :param more: the next call is likely within milliseconds: this may leave with it, or after a
            moment (200 ms at most), whatever this process does meanwhile.
        :raises ResultStoreUnavailable: the broker that keeps them is known to be away.
        """


@runtime_checkable
class Releases(Protocol):
    """A transport whose queues workers of other makes read, too: it can hand everything back to them."""

    def leases(self, queue: str | None = None) -> dict[str, float]:
        """Workers of ours whose lease goes on (and that consume the queue): seconds until it ends."""

    def release(self, queue: str | None = None, *, force: bool = False) -> Released:
        """Return what waits in structures that only we know to the queues that everybody reads.

        Documents stay what they are. It can be interrupted and done again.

        :param queue: only this one; None is all.
        :param force: take every worker for dead, whatever its lease says.
        :raises LeasesHeld: a worker's lease goes on.
        """


@runtime_checkable
class SendsWithin(Protocol):
    """A transport whose `send` can be given less time than it would take by itself."""

    def send_within(self, messages: Sequence[Outgoing], within_s: float) -> None:
        """As `send`, over after this many seconds: for who tries again and has one deadline for all.

        :raises BrokerUnavailable: as `send`.
        """


@runtime_checkable
class Wakeable(Protocol):
    """A consumer that messages are pushed to: whoever idles sleeps on its descriptor."""

    def fileno(self) -> int:
        """Polls readable when something may have come; -1 while there is no connection.

        Ask each time: it changes with the connection.
        """


@runtime_checkable
class Streams(Protocol):
    """A consumer to which the broker may push while a batch runs: never more than `reserve` was asked for.

    What has come then is held, and nobody was handed it. So whoever allows it says at once, with
    `give_back`, when it will not reserve for a while: before or while a task runs that is not short.
    """

    def allow_streaming(self) -> None:
        """Have messages pushed, where that is of use."""

    @property
    def streaming(self) -> bool:
        """Whether messages may be held that nobody was handed. `give_back`, of whichever tags, returns those
        as well, and ends it; so does closing."""


@runtime_checkable
class Flushes(Protocol):
    """A consumer whose settling may be lost when its process is killed right afterwards."""

    def flush(self) -> None:
        """Return when the broker knows all that was settled.

        :raises BrokerUnavailable: nobody knows whether it does.
        """


@runtime_checkable
class Entombs(Protocol):
    """A transport that cannot settle for a dead owner: the broker gives its messages to others.

    It passes on what is known of the end of one of them, as a JSON object: ``verdict``, one of
    timeout, memory, crash and shutdown (or consumer_timeout, which the transport itself may leave),
    ``cause``, a line of text, and ``limit_s``.
    """

    def entomb(self, message_id: str, note: bytes) -> None:
        """Leave word for whoever gets the message with this task id again.

        :raises BrokerUnavailable: the broker cannot be reached.
        """


@runtime_checkable
class Remembers(Protocol):
    """A consumer of a transport that `Entombs`."""

    def obituary(self, tag: bytes) -> bytes | None:
        """What was left about a suspect that this owner holds; None when nobody knows anything."""


class Transport(Protocol):
    """One broker, seen from one process. Safe to use from several threads; not across a fork."""

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do."""

    def keeps(self, store: ResultStore) -> bool:
        """Whether results that are settled with an outcome end up in this store."""

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
            None charges nothing, whatever the `cause`.
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


@runtime_checkable
class Answers(Protocol):
    """A result store whose results are messages to whoever called."""

    def listen(self) -> str:
        """What the messages of this process name as ``reply_to``; ready to take answers on return.

        :raises BrokerUnavailable: it cannot be made ready.
        """


class ResultStore(Protocol):
    """Where results live. Safe to use from several threads; not across a fork."""

    def store(self, results: Sequence[StoredResult]) -> None:
        """Write result documents; a stored SUCCESS is never overwritten.

        :raises ResultStoreUnavailable: the store cannot be reached.
        """

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        """Write documents that only inform, before anything that this process stores later.

        Need not wait for the store to answer, and may lose them when it is away.

        :raises ResultStoreUnavailable: the store is known to be away.
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
