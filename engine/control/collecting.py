"""Asking the workers, and gathering what they answer. Used by clients, and by workers that start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from ...serializers.registry import SerializerTable
from ...transports.base import Transport
from ...transports.mailbox import Controls, reply_exchange
from ..clock import mono_s, wall_s
from ..exceptions import ImproperlyConfigured
from ..message import fresh_id
from .lamport import LamportClock
from .wire import (
    MalformedControl,
    Reply,
    ReplyTo,
    Request,
    control_table,
    decode_reply,
    encode_request,
    queue_of,
)

_log = logging.getLogger("prefork.control")


def controls_of(transport: Transport) -> Controls:
    """The part of a transport that carries remote control.

    :raises ImproperlyConfigured: it does not.
    """
    if isinstance(transport, Controls):
        return transport
    raise ImproperlyConfigured(
        f"the {transport.capabilities.name} transport carries no remote control: use Redis, AMQP or the "
        "filesystem, or ask the workers of this host with `prefork health`"
    )


class Asker:
    """Sends requests in the name of one process.

    :param transport: gives the broker.
    """

    def __init__(self, transport: Callable[[], Transport], config: Any, clock: LamportClock) -> None:
        self._transport = transport
        self._exchange: str = config.control_exchange
        self._queue = queue_of(config)
        self._serializer: str = config.task_serializer
        self._clock = clock
        self.table: SerializerTable = control_table(config)

    def cast(self, request: Request) -> None:
        """Send a request and wait for nothing."""
        controls = controls_of(self._transport())
        message = encode_request(request._replace(clock=self._clock.forward()), self.table, self._serializer)
        controls.broadcast(self._exchange, message)

    def ask(
        self,
        request: Request,
        timeout_s: float,
        *,
        limit: int | None = None,
        each: Callable[[Reply], Any] | None = None,
        enough: Callable[[Reply], bool] | None = None,
    ) -> list[Reply]:
        """Send a request and gather the replies that come in time.

        :param limit: wait no longer once there are so many.
        :param each: called with every reply as it comes.
        :param enough: likewise; wait no longer once it says so.
        """
        controls = controls_of(self._transport())
        address, ticket = fresh_id(), fresh_id()
        ends_mono_s = mono_s() + timeout_s
        with closing(controls.replies(self._exchange, address, self._queue)) as mailbox:
            self.cast(
                request._replace(
                    ticket=ticket,
                    reply_to=ReplyTo(reply_exchange(self._exchange), address),
                    expires_wall_s=wall_s() + timeout_s,
                )
            )
            found: list[Reply] = []
            done = False
            while not done and (limit is None or len(found) < limit):
                left_s = ends_mono_s - mono_s()
                if left_s <= 0:
                    break
                for message in mailbox.receive(left_s):
                    reply = self._read(message, ticket)
                    if reply is not None:
                        found.append(reply)
                        if each is not None:
                            each(reply)
                        done = (enough is not None and enough(reply)) or done
            return found

    def _read(self, message: Any, ticket: str) -> Reply | None:
        try:
            reply = decode_reply(message, self.table)
        except MalformedControl as error:
            _log.warning("a reply of remote control is left out: %s", error)
            return None
        self._clock.adjust(reply.clock)
        return reply if reply.ticket == ticket else None


def request(
    method: str,
    arguments: Mapping[str, Any] | None,
    destination: Sequence[str] | str | None = None,
    pattern: str | None = None,
    matcher: str | None = None,
) -> Request:
    """A request, checked as far as the client can.

    :param destination: node names, or one.
    :raises ValueError: it is neither.
    """
    if isinstance(destination, str):
        destination = [destination]
    if destination is not None and not isinstance(destination, (list, tuple)):
        raise ValueError(f"destination={destination!r:.100}: give node names in a list")
    return Request(method, dict(arguments or {}), destination, pattern, matcher)
