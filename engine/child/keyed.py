"""Limits per key: each value of some argument, a tenant for example, has a bucket of its own.

There may be more keys than there can be lanes. So a message whose key is out of tokens books the next
one, goes back to the broker until that is there, and bears a note of it: it waits once, whatever else
waits. How far ahead is booked is bounded; beyond that it asks again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...serializers.registry import SerializerTable
from ...transports.base import Delivery, Outcome, Outgoing, Verdict
from ..clock import mono_ns, wall_s
from ..einfo import safe_text
from ..limits import gcra
from ..limits.board import RateBoard
from ..limits.kinds import Limited
from ..limits.shared import Sharing
from ..message import TaskMessage
from ..message_edit import with_header
from ..retrying import SNOOZES_HEADER

GRANT_HEADER: Final = "prefork_limit_grant"
HORIZON_S: Final = 60.0
PAUSED_S: Final = 5.0
# So late may somebody come who has booked: then the worker was away, and the token is nobody's.
_GRACE_S: Final = 5.0
# How often, per key, somebody looks for a slot that others hold.
_SLOT_LOOKS_PER_S: Final = 5.0

_log = logging.getLogger("prefork.child")


class Keyed:
    """The keyed limits of one child. Used by the loop's thread only."""

    def __init__(self, board: RateBoard, sharing: Sharing, table: SerializerTable) -> None:
        self._board = board
        self._sharing = sharing
        self._table = table
        self._failed: set[str] = set()  # tasks whose key function failed, which is said once

    def stopped(
        self,
        kind: Limited,
        delivery: Delivery,
        message: TaskMessage,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Outcome | None:
        """What becomes of a message that may not run now; None when it may.

        :raises TransportError: others cannot be asked.
        """
        key = self._key(kind, args, kwargs)
        now_wall_s = wall_s()
        # In the broker's schedule it would be a new message: who counts crashes must see it as it is.
        recorded = delivery.crashes > 0 or delivery.suspect
        if not recorded and not self._is_granted(message, now_wall_s):
            wait_s, booked = self._wait(kind, key)
            if wait_s > 0:
                # Read after the booking: with a moment before it, who stood still in between would have it
                # come before its token.
                return self._later(delivery, message, wall_s() + wait_s, booked=booked)
        wait_s = self._shared_wait(kind, key)
        if wait_s <= 0:
            return None
        if recorded:
            return Outcome(delivery.tag, Verdict.DEFER, due_wall_s=now_wall_s + wait_s)
        return self._later(delivery, message, now_wall_s + wait_s, booked=False)

    def _later(self, delivery: Delivery, message: TaskMessage, due_wall_s: float, *, booked: bool) -> Outcome:
        if not booked:
            return Outcome(delivery.tag, Verdict.DEFER, due_wall_s=due_wall_s)
        note = f"{_attempt(message, message.all_headers(self._table))}:{due_wall_s:.6f}"
        document = with_header(delivery.document, GRANT_HEADER, note)
        later = Outgoing(delivery.queue, document, delivery.priority, due_wall_s)
        return Outcome(delivery.tag, follow_ups=(later,))

    def _key(self, kind: Limited, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        make = kind.limits.key
        assert make is not None  # else the kind is not keyed
        try:
            return make(args, kwargs)
        except Exception as error:  # the user's code; or arguments that the task itself will refuse
            if kind.name not in self._failed:
                self._failed.add(kind.name)
                _log.error(
                    "the key of %s cannot be made: %s; such calls share one", kind.name, safe_text(error)
                )
            return ""

    def _is_granted(self, message: TaskMessage, now_wall_s: float) -> bool:
        """Whether it has booked the token that is there now, for this attempt."""
        headers = message.all_headers(self._table)
        note = headers.get(GRANT_HEADER)
        if not isinstance(note, str):
            return False
        attempt, _, at = note.rpartition(":")
        try:
            late_s = now_wall_s - float(at)
        except ValueError:
            return False  # somebody else's writing
        return attempt == _attempt(message, headers) and -0.1 <= late_s <= _GRACE_S

    def _wait(self, kind: Limited, key: str) -> tuple[float, bool]:
        """How long until this worker's bucket of the key has a token, and whether it was booked."""
        shape = kind.bucket.shape()
        if shape is None:
            return 0.0, False
        if not shape.interval_ns:
            return PAUSED_S * random.uniform(0.9, 1.1), False
        return self._book(kind.name, key, shape, HORIZON_S)

    def _book(self, name: str, key: str, shape: gcra.Shape, horizon_s: float) -> tuple[float, bool]:
        wait_ns, booked = self._board.take_keyed(name, key, shape, mono_ns(), int(horizon_s * 1e9))
        if wait_ns and not booked:
            wait_ns = int(wait_ns * random.uniform(0.5, 1.0))
        return wait_ns / 1e9, booked

    def _shared_wait(self, kind: Limited, key: str) -> float:
        """How long until it is worth asking the others again; 0 when they let it run.

        Those that wait for the same key ask one after the other, at the pace at which there is something
        to be had.
        """
        limits = kind.limits
        if limits.global_per_s == 0:
            return PAUSED_S * random.uniform(0.9, 1.1)
        if limits.global_per_s is not None:
            retry_s = self._sharing.keyed_token(kind, key)
            if retry_s > 0:
                pace = gcra.shape_of(limits.global_per_s, 1.0)
                return max(retry_s, self._book(f"{kind.name}\0global", key, pace, HORIZON_S)[0])
        if limits.max_concurrency is not None and not self._sharing.keyed_slot(kind, key):
            pace = gcra.shape_of(_SLOT_LOOKS_PER_S, 1.0)
            return max(1 / _SLOT_LOOKS_PER_S, self._book(f"{kind.name}\0slots", key, pace, HORIZON_S)[0])
        return 0.0


def _attempt(message: TaskMessage, headers: Mapping[str, Any]) -> str:
    """Which start of a task a token is for: one that is put off needs another one then."""
    return f"{message.retries}.{headers.get(SNOOZES_HEADER, 0)}"
