"""Broadcasts where the broker knows no exchanges: whoever sends leaves a copy for every worker."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from ..transports.base import Transport
from ..transports.declarations import original
from .broker_gaps import no_broadcast
from .exceptions import ImproperlyConfigured

WAITING_MAX: Final = 1000
"""How many copies may wait for a worker that is away; then it gets no more until it is back."""

_log = logging.getLogger("prefork.client")


def with_copies(queues: Sequence[str], broadcasts: Collection[str], transport: Transport) -> Sequence[str]:
    """The queues that a message goes to, with the workers' copies in place of each broadcast queue.

    As with a fanout exchange it goes nowhere if there are none.

    :param broadcasts: which queues are broadcast queues.
    :raises ImproperlyConfigured: nobody can tell which workers there are.
    """
    if not any(name in broadcasts for name in queues):
        return queues
    if not transport.capabilities.lists_queues:
        wanted = ", ".join(name for name in queues if name in broadcasts)
        raise ImproperlyConfigured(no_broadcast(wanted, transport.capabilities.name))
    there = transport.queues()
    found: list[str] = []
    for name in queues:
        if name not in broadcasts:
            found.append(name)
            continue
        for copy in there:
            if original(copy) == name and _has_room(copy, transport):
                found.append(copy)
    return found


def _has_room(copy: str, transport: Transport) -> bool:
    depth = transport.depth(copy)
    if depth.ready + depth.delayed < WAITING_MAX:
        return True
    _log.warning("%d copies wait in %r, whose worker is away: it gets no more", WAITING_MAX, copy)
    return False
