"""The values that cross the ports of a broker and of a result store.

They are frozen structs that msgspec encodes as they are, because the outcome of a task must be able
to survive, in shared memory, the process that computed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

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
    :param priority: 0 to 255, as the caller gave it; what it means is the transport's business, and those
        that have ten levels take what is above 9 for 9.
    :param due_wall_s: Unix time before which nobody may reserve the message; None means at once.
    :param exchange: not empty: the message goes wherever the bindings of this exchange lead, and
        `queue` only names the place it was meant for. Only given to a transport whose
        `Capabilities.routes` is true.
    :param routing_key: what the bindings of the exchange are compared with.
    """

    queue: str
    document: bytes
    priority: int = 0
    due_wall_s: float | None = None
    exchange: str = ""
    routing_key: str = ""


class QueueDeclaration(msgspec.Struct, frozen=True, gc=False):
    """A queue and its binding, as everybody who shares the broker must describe them.

    Transports are opened with the option ``declarations``, a map from queue names to these. A queue
    that is not in it is durable, and bound to a direct exchange of its own name by its own name.

    :param exchange: the exchange that the queue is bound to; empty for the broker's default one.
    :param exchange_type: direct, topic or fanout.
    :param routing_key: what binds it: a key, or the pattern of a topic.
    :param arguments: the broker's own, such as ``x-max-priority`` or ``x-expires`` (milliseconds).
    :param broadcast: nothing waits in it itself: every worker that consumes it has a queue with copies
        (`declarations.copy_for`), unless the broker has another way.
    """

    name: str
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Mapping[str, Any] = {}
    exchange_durable: bool = True
    exchange_auto_delete: bool = False
    exchange_arguments: Mapping[str, Any] = {}
    broadcast: bool = False


class Delivery(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message that a consumer holds until it settles it, gives it back, or dies.

    :param tag: opaque, at most `TAG_BYTES_MAX` bytes; names this delivery of this message to this
        owner in this batch, and is never reused.
    :param crashes: how many processes died while they ran this message.
    :param suspect: the message was held by a worker that vanished, so it may be what killed it.
        A suspect is reserved alone; call `Consumer.mark_started` before running it.
    :param causes: why they died, where the broker says so with the message.
    """

    tag: bytes
    queue: str
    document: bytes
    priority: int = 0
    crashes: int = 0
    suspect: bool = False
    redelivered: bool = False
    causes: tuple[str, ...] = ()


class StoredResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A result document on its way into a store.

    :param key: the task id.
    :param document: encoded result document (interop §8.2).
    :param expires_s: lifetime in seconds from now; None keeps it.
    :param final: the document's state is a ready one (SUCCESS, FAILURE, REVOKED).
    :param reply_to: where whoever called waits for it; only stores that answer by messages look at it.
    """

    key: str
    document: bytes
    expires_s: float | None = None
    final: bool = True
    reply_to: str = ""


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


class Released(msgspec.Struct, frozen=True):
    """What `Releases.release` did.

    :param delayed: messages that had waited in the schedule.
    :param recorded: messages that had a record of crashes, or were put off.
    :param held: messages that dead workers had held.
    :param problems: one line of text each, for an operator.
    """

    delayed: int = 0
    recorded: int = 0
    held: int = 0
    problems: tuple[str, ...] = ()


class Capabilities(msgspec.Struct, frozen=True):
    """What a transport can do; an option that it cannot honour refuses at start."""

    name: str
    priorities: bool = True
    highest_priority_first: bool = True
    """9 is served before 0; else 0 before 9, as Celery has it on this broker."""
    strict_priorities: bool = True
    """Priority decides between queues, too, and among messages that have come since a consumer last
    looked; else only among those that wait in one queue."""
    schedule: bool = True
    dead_letters: bool = True
    leases: bool = True
    recall_by_others: bool = True
    stores_results: bool = False
    inspection: bool = True
    several_processes: bool = True
    routes: bool = False
    """Takes `Outgoing.exchange`; else whoever sends finds the queues by itself."""
    shares_queues: bool = False
    """Workers of other makes read the same queues: a delayed message is sent to its queue at once
    (without `Outgoing.due_wall_s`), and whoever reserves it too early puts it off."""
    announces_schedule: bool = False
    """Its watches fire when the schedule changes, too: nobody need look again before the time that
    `Transport.promote` named."""
    inspects_schedule: bool = True
    """Delayed messages can be counted, shown and purged."""
    lists_queues: bool = True
    """`Transport.queues` and `owners` know what other processes have made."""
    counts_in_work: bool = True
    """`Depth.in_work` counts what other processes hold."""
    coordinates: bool = True
    """It is `coordination.Coordinates`: workers share limits, locks and revocations."""
    selects: bool = True
    """Its consumers are `Selects`: they take the messages of one queue."""
    rotates: bool = True
    """Its consumers are `Rotates`: they look at other priorities first."""
    hold_s_max: float | None = None
    """How long the broker lets a message be held, if it has such a bound."""
    gaps: tuple[str, ...] = ()
