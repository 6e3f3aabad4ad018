"""Remote control within one process: each mailbox is a short queue beside an eventfd."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable
from typing import Any

from ..base import Message
from ..mailbox import KEPT_MAX, RECEIVED_MAX, USUAL_QUEUE, ControlQueue, reply_exchange
from ..readable import wait_readable

Place = tuple[str, str, str]
"""Requests or replies, the namespace or exchange, the address."""


class MemoryMailbox:
    """Implements `transports.mailbox.Mailbox`.

    :param locked: enters the lock of the broker.
    :param forget: called once, under that lock, so that nothing more is put in.
    """

    def __init__(self, locked: Callable[[], Any], forget: Callable[[MemoryMailbox], None]) -> None:
        self._locked = locked
        self._forget = forget
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Written under the lock of the broker.
        self._waiting: collections.deque[Message] = collections.deque(maxlen=KEPT_MAX)

    def fileno(self) -> int:
        """The descriptor, as in `Mailbox.fileno`."""
        return self._fd

    def put(self, message: Message) -> None:
        """Keep a message. Called under the lock of the broker."""
        self._waiting.append(message)
        os.eventfd_write(self._fd, 1)

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, as in `Mailbox.receive`."""
        if timeout_s > 0 and self._fd >= 0:
            wait_readable([self._fd], timeout_s)
        with self._locked():
            count = min(RECEIVED_MAX, len(self._waiting))
            found = [self._waiting.popleft() for _ in range(count)]
            if not self._waiting and self._fd >= 0:
                self._silence()
            return found

    def _silence(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return  # nothing had come since

    def close(self) -> None:
        """Stop listening, as in `Mailbox.close`."""
        with self._locked():
            fd, self._fd = self._fd, -1
            if fd >= 0:
                self._forget(self)
                os.close(fd)
            self._waiting.clear()


class Mailboxes:
    """Who listens where. Everything happens under the lock of the broker.

    :param locked: enters that lock.
    """

    def __init__(self, locked: Callable[[], Any]) -> None:
        self._locked = locked
        self._places: dict[Place, list[MemoryMailbox]] = {}

    def open(self, place: Place) -> MemoryMailbox:
        """Listen at a place."""
        mailbox = MemoryMailbox(self._locked, lambda one: self._remove(place, one))
        with self._locked():
            self._places.setdefault(place, []).append(mailbox)
        return mailbox

    def _remove(self, place: Place, mailbox: MemoryMailbox) -> None:
        left = [one for one in self._places.get(place, []) if one is not mailbox]
        if left:
            self._places[place] = left
        else:
            self._places.pop(place, None)

    def deliver(self, kind: str, exchange: str, message: Message, address: str | None = None) -> None:
        """Put a message into every mailbox of an exchange, or into those of one address."""
        with self._locked():
            for (place_kind, place_exchange, place_address), mailboxes in self._places.items():
                addressed = address is None or place_address == address
                if (place_kind, place_exchange) == (kind, exchange) and addressed:
                    for mailbox in mailboxes:
                        mailbox.put(message)


class MemoryControls:
    """The part of the memory transport that implements `transports.mailbox.Controls`."""

    _mailboxes: Mailboxes

    def mailbox(self, exchange: str, node: str, queue: ControlQueue = USUAL_QUEUE) -> MemoryMailbox:
        """Listen for requests, as in `Controls.mailbox`."""
        return self._mailboxes.open(("requests", exchange, node))

    def broadcast(self, exchange: str, message: Message) -> None:
        """Send a request to every listener, as in `Controls.broadcast`."""
        self._mailboxes.deliver("requests", exchange, message)

    def replies(self, exchange: str, address: str, queue: ControlQueue = USUAL_QUEUE) -> MemoryMailbox:
        """Listen for replies, as in `Controls.replies`."""
        return self._mailboxes.open(("replies", reply_exchange(exchange), address))

    def reply(self, exchange: str, address: str, message: Message) -> None:
        """Answer one client, as in `Controls.reply`."""
        self._mailboxes.deliver("replies", exchange, message, address)
