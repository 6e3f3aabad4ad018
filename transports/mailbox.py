"""Remote control's wire: requests to all workers, and their replies (interop §11).

Brokers that Celery speaks, too, carry it exactly as kombu's pidbox does, so that each side's clients
reach the other side's workers. The embedded brokers have a form of their own.

Every implementation passes `tests/transports/conformance/test_mailbox.py`.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, runtime_checkable

from .values import Message

RECEIVED_MAX: Final = 100
"""How many messages `Mailbox.receive` returns at most."""

KEPT_MAX: Final = 1000
"""How many messages an embedded broker keeps for one mailbox that nobody reads; the oldest go first."""


class ControlQueue(NamedTuple):
    """How the queue behind a mailbox is declared (the ``control_queue_*`` settings; interop §6.3).

    A broker without such queues takes the two times for what it keeps in their place.

    :param ttl_s: lifetime of a message that nobody reads, in seconds.
    :param expires_s: how long a queue stays that nobody reads, in seconds.
    """

    ttl_s: float = 300.0
    expires_s: float = 10.0
    exclusive: bool = True
    durable: bool = False


USUAL_QUEUE: Final = ControlQueue()
"""What applies when nothing is configured."""


@runtime_checkable
class Mailbox(Protocol):
    """Where requests to one worker, or replies to one client, arrive. Used by one thread."""

    def fileno(self) -> int:
        """A descriptor that polls readable when something may have come; -1 while there is none.

        Ask each time: it changes with the connection. Whoever polls calls `receive` every few seconds
        besides, since only `receive` notices that a silent server has gone.
        """

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, at once or within so many seconds; at most `RECEIVED_MAX` messages at a time.

        Lost connections are made anew by the next call, with a pause between attempts. What is no
        message is dropped, and logged once.

        :raises BrokerUnavailable: the broker cannot be reached now.
        """

    def close(self) -> None:
        """Stop listening, and remove what only this mailbox needs. Safe to call twice."""


@runtime_checkable
class Controls(Protocol):
    """A transport that carries remote control. Safe to use from several threads.

    Every method raises BrokerUnavailable when the broker cannot be reached.
    """

    def mailbox(self, exchange: str, node: str, queue: ControlQueue = USUAL_QUEUE) -> Mailbox:
        """Listen for requests, as the worker `node`.

        :param exchange: the namespace, ``control_exchange`` of the configuration; the wire's names are
            made of it as in interop §11.1.
        """

    def broadcast(self, exchange: str, message: Message) -> None:
        """Send a request to every worker that listens.

        :param exchange: the namespace.
        :raises Unacceptable: it is too large.
        """

    def replies(self, exchange: str, address: str, queue: ControlQueue = USUAL_QUEUE) -> Mailbox:
        """Listen for replies; ready to take them on return.

        :param exchange: the namespace.
        :param address: what requests name as ``reply_to``'s routing key.
        """

    def reply(self, exchange: str, address: str, message: Message) -> None:
        """Answer one client. Nobody minds if it has gone.

        :param exchange: as the request's ``reply_to`` names it: `reply_exchange` of the namespace.
        :raises Unacceptable: it is too large.
        """


def request_exchange(namespace: str) -> str:
    """The exchange that requests go to (interop §11.1)."""
    return f"{namespace}.pidbox"


def reply_exchange(namespace: str) -> str:
    """The exchange that replies go to."""
    return f"reply.{namespace}.pidbox"


def request_queue(namespace: str, node: str) -> str:
    """The queue of one worker."""
    return f"{node}.{namespace}.pidbox"


def reply_queue(exchange: str, address: str) -> str:
    """The queue of one client.

    :param exchange: as `reply_exchange` names it.
    """
    return f"{address}.{exchange}"
