"""What is published because a delivery ends as it does. Pure: the time is passed in."""

from __future__ import annotations

from typing import Any

from ..base import REASON_CRASHES, Outcome, Verdict
from ..identifiers import fresh_id
from .documents import again, every_cause
from .parcels import Parcel
from .received import Received
from .sending import check_due, check_outgoing, delayed_parcel, parcel_of
from .settings import AmqpSettings

_VERDICTS = frozenset(Verdict)
# A look at a member of an enumeration is a call on Python 3.11.
_ACK = Verdict.ACK

HEADER_KEY = "x-prefork-key"
HEADER_REASON = "x-prefork-reason"
HEADER_LETTER_CAUSES = "x-prefork-letter-causes"
HEADER_QUEUE = "x-prefork-queue"
HEADER_DIED = "x-prefork-died"
HEADER_CRASHES = "x-prefork-crashes"
HEADER_EXCHANGE = "x-prefork-exchange"
HEADER_ROUTING_KEY = "x-prefork-routing-key"

LETTER_HEADERS = frozenset(
    (
        HEADER_KEY,
        HEADER_REASON,
        HEADER_LETTER_CAUSES,
        HEADER_QUEUE,
        HEADER_DIED,
        HEADER_CRASHES,
        HEADER_EXCHANGE,
        HEADER_ROUTING_KEY,
    )
)


def parcels_of(
    message: Received, outcome: Outcome, now_wall_s: float, settings: AmqpSettings
) -> list[Parcel]:
    """What must be with the broker before the delivery is acknowledged.

    :raises ValueError: a delay that RabbitMQ cannot wait.
    """
    parcels = [parcel_of(follow_up, now_wall_s, settings.leads) for follow_up in outcome.follow_ups]
    if outcome.verdict is _ACK:
        return parcels
    if outcome.verdict is Verdict.REQUEUE:
        parcels.append(anew(message, crashed=outcome.crashed, causes=outcome.causes))
    elif outcome.verdict is Verdict.DEFER:
        assert outcome.due_wall_s is not None
        parcels.append(put_off(message, outcome.due_wall_s - now_wall_s, suspect=message.suspect))
    elif outcome.verdict is Verdict.DEAD:
        parcels.append(letter(message, outcome.reason, outcome.causes, now_wall_s, settings.dead_queue))
    return parcels


def anew(message: Received, *, crashed: bool = False, causes: tuple[str, ...] = ()) -> Parcel:
    """A message that goes to the end of its queue, with its record."""
    properties = again(
        message.properties,
        starts=message.crashes + int(crashed),
        causes=every_cause(message.causes, message.crashes) + causes if crashed else message.causes,
        suspect=message.suspect,
    )
    return Parcel("", message.queue, properties, message.body, message.queue)


def put_off(message: Received, delay_s: float, *, suspect: bool) -> Parcel:
    """A message that comes again after a while, with its record."""
    properties = again(message.properties, starts=message.crashes, causes=message.causes, suspect=suspect)
    if delay_s <= 0:
        return Parcel("", message.queue, properties, message.body, message.queue)
    return delayed_parcel(message.queue, properties, message.body, delay_s)


def letter(
    message: Received, reason: str, causes: tuple[str, ...], now_wall_s: float, dead_queue: str
) -> Parcel:
    """A dead letter: the message as it came, with headers that say why it lies there."""
    properties = again(message.properties, starts=0)
    before = message.crashes - len(causes) if reason == REASON_CRASHES else message.crashes
    headers: dict[str, Any] = {
        **properties["headers"],
        HEADER_KEY: fresh_id(),
        HEADER_REASON: reason,
        HEADER_LETTER_CAUSES: [*every_cause(message.causes, before), *causes],
        HEADER_QUEUE: message.queue,
        HEADER_DIED: now_wall_s,
        HEADER_CRASHES: message.crashes,
        HEADER_EXCHANGE: message.exchange,
        HEADER_ROUTING_KEY: message.routing_key,
    }
    return Parcel("", dead_queue, {**properties, "headers": headers}, message.body, dead_queue)


def check_outcome(outcome: Outcome) -> None:
    """Refuse what says nothing that could be done.

    :raises ValueError: no verdict, or a time or message that cannot be.
    """
    verdict = outcome.verdict
    if verdict is _ACK and outcome.due_wall_s is None and not outcome.follow_ups:
        return  # nearly all, and nothing can be wrong with it
    if verdict not in _VERDICTS:
        raise ValueError(f"{verdict!r} is not a verdict; use one of {list(Verdict)}")
    if verdict is Verdict.DEFER and outcome.due_wall_s is None:
        raise ValueError("a deferred message needs due_wall_s, the Unix time at which it is ready again")
    check_due(outcome.due_wall_s)
    for message in outcome.follow_ups:
        check_outgoing(message)
