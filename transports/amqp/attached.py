"""What can be done for an owner of another process, which is little: its connection is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import amqp

from ..base import REASON_CRASHES, DeadLetter, Delivery, Outcome, Recovery
from ..errors import OwnerLost
from .consequences import HEADER_KEY, letter
from .documents import again, causes_of
from .graveyard import browse
from .parcels import Parcel
from .publisher import Publisher
from .received import Received
from .topology import held_queue

_SCANNED_MAX = 100


class AttachedConsumer:
    """Implements `transports.base.Consumer` for an owner of which nothing can be reached."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    @property
    def owner(self) -> str:
        """The owner, as in `Consumer.owner`."""
        return self._owner

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Refuse, as in `Transport.attach`.

        :raises OwnerLost: always.
        """
        raise OwnerLost(self._owner, "a consumer that is attached to another's owner never reserves")

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Nothing: what its owner held is with the broker again, or still with the owner."""
        return [False] * len(outcomes)

    def give_back(self, tags: Sequence[bytes]) -> int:
        """Nothing: only the owner itself can."""
        return 0

    def mark_started(self, tag: bytes) -> bool:
        """False: it is not held here."""
        return False

    def fetch(self, tag: bytes) -> Delivery | None:
        """None: it is not held here."""
        return None

    def close(self) -> None:
        """Nothing to close."""


def recover_held(
    publisher: Publisher, owner: str, *, cause: str, max_crashes: int, dead_queue: str, now_wall_s: float
) -> Recovery:
    """Bring back the suspect that a dead owner had started, charged with its death.

    Without this it comes back by itself a little later, without the cause.

    :param cause: why the owner died; the charge is on record already, and is taken back without one.
    """
    crashed: list[bytes] = []
    dead: list[DeadLetter] = []
    returned = 0

    def bring_back(channel: Any) -> None:
        nonlocal returned
        for found in browse(channel, held_queue(owner), _SCANNED_MAX):
            received = Received(
                b"",
                found.delivery_tag,
                found.routing_key,
                found.properties,
                found.body,
                exchange="",
                routing_key=found.routing_key,
                redelivered=True,
            )
            document = received.delivery().document
            if not cause:
                received.crashes = max(0, received.crashes - 1)
            causes = causes_of(found.properties) + ((cause,) if cause else ())
            if cause and received.crashes >= max_crashes:
                parcel = letter(received, REASON_CRASHES, (cause,), now_wall_s, dead_queue)
                dead.append(_written(parcel, received, document, causes, now_wall_s))
            else:
                properties = again(found.properties, starts=received.crashes, causes=causes, suspect=True)
                parcel = Parcel("", received.queue, properties, found.body, received.queue)
                returned += 1
                if cause:
                    crashed.append(document)
            publisher.publish([parcel])
            channel.basic_ack(found.delivery_tag)

    try:
        publisher.ask(bring_back)
    except amqp.exceptions.NotFound:
        return Recovery()
    return Recovery(returned=returned, crashed=tuple(crashed), dead=tuple(dead))


def _written(
    parcel: Parcel, received: Received, document: bytes, causes: tuple[str, ...], now_wall_s: float
) -> DeadLetter:
    return DeadLetter(
        key=str(parcel.properties["headers"][HEADER_KEY]),
        queue=received.queue,
        reason=REASON_CRASHES,
        causes=causes,
        document=document,
        priority=int(received.properties.get("priority") or 0),
        crashes=received.crashes,
        died_wall_s=now_wall_s,
    )
