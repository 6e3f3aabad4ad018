"""Remote control's wire: requests to all workers, and their replies (interop §11).

Brokers that Celery speaks, too, carry it exactly as kombu's pidbox does, so that each side's clients
reach the other side's workers. The embedded brokers have a form of their own.

Every implementation passes `tests/transports/conformance/test_mailbox.py`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .values import Message


@runtime_checkable
class Mailbox(Protocol):
    """Where requests to one worker, or replies to one client, arrive. Used by one thread."""

    def fileno(self) -> int:
        """A descriptor that polls readable when something may have come; -1 while there is none.

        Ask each time: it changes with the connection.
        """

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, at once or within so many seconds; at most 100 messages at a time.

        Lost connections are made anew by the next call, with a pause between attempts.

        :raises BrokerUnavailable: the broker cannot be reached now.
        """

    def close(self) -> None:
        """Stop listening, and remove what only this mailbox needs. Safe to call twice."""


@runtime_checkable
class Controls(Protocol):
    """A transport that carries remote control. Safe to use from several threads.

    Every method raises BrokerUnavailable when the broker cannot be reached.
    """

    def mailbox(self, exchange: str, node: str) -> Mailbox:
        """Listen for requests, as the worker `node`.

        :param exchange: the namespace, ``control_exchange`` of the configuration; the wire's names are
            made of it as in interop §11.1.
        """

    def broadcast(self, exchange: str, message: Message) -> None:
        """Send a request to every worker that listens."""

    def replies(self, exchange: str, address: str) -> Mailbox:
        """Listen for replies; ready to take them on return.

        :param address: what requests name as ``reply_to``'s routing key.
        """

    def reply(self, exchange: str, address: str, message: Message) -> None:
        """Answer one client. Nobody minds if it has gone.

        :param exchange: as the request's ``reply_to`` names it.
        """
