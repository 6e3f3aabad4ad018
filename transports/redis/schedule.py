"""Delayed messages: one sorted set per queue, by due time."""

from __future__ import annotations

import time

from .keys import Keys, decode
from .link import Link
from .owners import Sources
from .scripts import PROMOTE

PROMOTED_BYTES_MAX = 8 << 20


def promote(link: Link, keys: Keys, limit: int) -> float | None:
    """Make due messages of any queue ready; see `Transport.promote`."""
    following: list[float] = []
    for name in link.call("SMEMBERS", keys.due_queues):
        queue = decode(name)
        sources = Sources(keys, [queue], keys.steps)
        # Read before the server is asked: a reply that takes long makes the next time too early (then one
        # asks again), never too late.
        asked_wall_s = time.time()
        moved, next_due, server_now = link.run(
            PROMOTE,
            [keys.due(queue), keys.due_queues, keys.marked_lists, keys.dead, *sources.pairs()],
            [name, max(0, limit), PROMOTED_BYTES_MAX, *sources.steps],
        )
        limit -= moved
        if next_due:
            # By the clock of this host, which need not agree with the server's.
            following.append(asked_wall_s + float(next_due) - float(server_now))
    return min(following, default=None)
