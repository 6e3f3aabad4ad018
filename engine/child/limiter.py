"""Keeps the limits of task kinds in a child: tokens before a run, lanes for what has to wait.

A message of a kind that is out of tokens is moved once, to its kind's lane, and from then on only
those with a token are taken from there. So a backlog costs nobody anything, and its order is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from ...serializers.registry import SerializerTable
from ...transports.base import Consumer, Delivery, Outcome, Outgoing, Selects, Transport, Verdict
from ...transports.coordination import Coordinates
from ...transports.errors import TransportError
from ..broker_gaps import no_limit
from ..clock import mono_ns, wall_s
from ..exceptions import ImproperlyConfigured
from ..limits.board import NEVER_NS, RateBoard
from ..limits.kinds import Limited, limited_kinds
from ..limits.lanes import lane_of
from ..limits.shared import Sharing
from ..scoreboard import W_PARKED, W_RATES
from .keyed import Keyed
from .plan import RunPlan

# How long a message waits at least, or at most, that goes to no lane.
_PUT_OFF_S: Final = 0.05
_PAUSED_PUT_OFF_S: Final = 5.0

_log = logging.getLogger("prefork.child")


class Limiter:
    """The limits of one child. Used by the loop's thread only.

    :param plans: the plan of a registered task.
    :ivar keyed: the limits of kinds whose keys have limits of their own.
    :raises ImproperlyConfigured: a task asks for a limit that this broker cannot keep.
    """

    def __init__(
        self,
        board: RateBoard,
        transport: Transport,
        consumer: Consumer,
        plans: Callable[[str], RunPlan | None],
        task_names: Callable[[], list[str]],
        queues: list[str],
        worker: str,
        table: SerializerTable,
    ) -> None:
        self._board = board
        self._header = board.header
        self._plan_of = plans
        self._task_names = task_names
        self._queues = queues
        self._transport_name = transport.capabilities.name
        self._selects = consumer if isinstance(consumer, Selects) else None
        coordinates = transport if isinstance(transport, Coordinates) else None
        self._sharing = Sharing(coordinates, worker, consumer.owner)
        self.keyed = Keyed(board, self._sharing, table)
        self._seen = -1  # the state of the board that `_kinds` is made from
        self._kinds: dict[str, Limited] = {}
        self._quiet = -1  # what had been parked when all lanes were found empty
        self._turn = 0
        self._others_first = False
        self.from_lane = False  # whether the present batch is from a lane
        # Of the present batch: deliveries that have a token, and kinds of which messages were parked.
        self._granted: dict[bytes, Limited] = {}
        self._parked: dict[str, Limited] = {}
        self._parked_n = 0
        self._refresh()

    def _refresh(self) -> None:
        self._seen = self._board.changes
        self._kinds = limited_kinds(self._board, self._task_names(), self._queues)
        for name, kind in self._kinds.items():
            plan = self._plan_of(name)
            if plan is not None:
                kind.follow(plan.limits)
                self._check(name, kind)
                plan.limited = kind.limited
                plan.keyed = kind.keyed

    def _check(self, name: str, kind: Limited) -> None:
        """Refuse what this broker cannot do.

        :raises ImproperlyConfigured: naming task, option and broker.
        """
        refusal = no_limit(
            name,
            kind.limits,
            kind.limited,
            self._transport_name,
            self._sharing.possible,
            self._selects is not None,
        )
        if refusal is not None:
            raise ImproperlyConfigured(refusal)

    # --- lanes --------------------------------------------------------------------------------------

    def reserve(self, limit: int) -> list[Delivery]:
        """Take messages from a lane whose kind may run; they have their tokens.

        Every other time nothing is taken, so that lanes that are drained at full speed leave the other
        queues their turn.

        :raises TransportError: as `Consumer.reserve`.
        """
        self.from_lane = False
        if self._header[W_RATES] != self._seen:
            self._refresh()
            self._quiet = -1
        parks = self._header[W_PARKED]
        if parks == self._quiet or self._selects is None:
            return []
        self._sharing.free_late()
        self._others_first = not self._others_first
        if not self._others_first:
            return []
        now_ns = mono_ns()
        kinds = list(self._kinds.values())
        self._turn = (self._turn + 1) % max(1, len(kinds))
        for kind in kinds[self._turn :] + kinds[: self._turn]:
            if kind.bucket.holds and (kind.keyed or kind.bucket.due_ns(now_ns) <= now_ns):
                found = self._from_lanes(self._selects, kind, limit, now_ns)
                if found:
                    self.from_lane = True
                    return found
        self._others_first = False
        if not self._sharing.late and not any(kind.bucket.holds for kind in kinds):
            self._quiet = parks  # nothing to look at until something is parked
        return []

    def _from_lanes(self, selects: Selects, kind: Limited, limit: int, now_ns: int) -> list[Delivery]:
        plan = self._plan_of(kind.name)
        short = plan is not None and plan.kind.short and kind.limits.max_concurrency is None
        parked = kind.bucket.parked
        tokens = self._take(kind, limit if short else 1, now_ns)
        found: list[Delivery] = []
        if not tokens:
            return found
        try:
            for queue, lane in kind.lanes_in_turn():
                found = selects.reserve_from(lane, tokens)
                if found:
                    # What runs, or runs again, is a message of the queue that it was sent to.
                    found = [msgspec.structs.replace(one, queue=queue) for one in found]
                    break
            else:
                kind.bucket.emptied(parked)
        finally:
            self._give_back(kind, tokens - len(found))
            if not found:
                # Before anything else runs here, which may take long.
                self._sharing.free(kind)
        self._granted.update((one.tag, kind) for one in found)
        return found

    def due_in_s(self) -> float | None:
        """In how many seconds something may be taken from a lane; None when nothing waits there."""
        now_ns = mono_ns()
        due = [kind.bucket.due_ns(now_ns) for kind in self._kinds.values() if kind.bucket.holds]
        soonest_ns = min(due, default=NEVER_NS)
        return None if soonest_ns >= NEVER_NS else max(0.0, (soonest_ns - now_ns) / 1e9)

    # --- tokens -------------------------------------------------------------------------------------

    def _take(self, kind: Limited, want: int, now_ns: int, *, overdraft: int = 0) -> int:
        """Take tokens of every limit of a kind, a slot included; how many messages may run."""
        if kind.keyed:
            return want  # they are asked for their keys one by one
        tokens = kind.bucket.take(want, now_ns, overdraft=overdraft)
        if not tokens or not kind.limits.shared:
            return tokens
        granted = 0
        try:
            granted = self._sharing.take(kind, tokens, now_ns)
        finally:
            kind.bucket.give_back(tokens - granted)
        return granted

    def _give_back(self, kind: Limited, tokens: int) -> None:
        if tokens > 0 and not kind.keyed:
            kind.bucket.give_back(tokens)
            self._sharing.give_back(kind, tokens)

    # --- one message --------------------------------------------------------------------------------

    def stopped(self, delivery: Delivery, plan: RunPlan) -> Outcome | None:
        """What becomes of a message of a limited kind that may not run now; None when it may.

        :raises TransportError: others cannot be asked.
        """
        kind = self._kinds[plan.name]
        if self._granted.pop(delivery.tag, None) is kind:
            return None
        # In a lane it would be a new message: who counts crashes must see it as it is.
        stays = delivery.crashes > 0 or delivery.suspect or not kind.has_lane_of(delivery.queue)
        now_ns = mono_ns()
        may_take = stays or (not kind.bucket.holds and kind.bucket.due_ns(now_ns) <= now_ns)
        # One that stays may take the token before its time, so that the lane does not starve it.
        if may_take and self._take(kind, 1, now_ns, overdraft=int(stays)):
            return None
        if stays:
            wait_s = (kind.bucket.due_ns(now_ns) - now_ns) / 1e9
            wait_s = min(max(wait_s, _PUT_OFF_S), _PAUSED_PUT_OFF_S)
            return Outcome(delivery.tag, Verdict.DEFER, due_wall_s=wall_s() + wait_s)
        return self._park(kind, delivery)

    def _park(self, kind: Limited, delivery: Delivery) -> Outcome:
        # Said before it is so, and once more when it is: others keep behind it, and nobody who looks too
        # early takes the lane for empty.
        kind.bucket.park()
        self._parked[kind.name] = kind
        self._parked_n += 1
        lane = lane_of(delivery.queue, kind.name)
        return Outcome(delivery.tag, follow_ups=(Outgoing(lane, delivery.document, delivery.priority),))

    def kind_of(self, plan: RunPlan) -> Limited:
        """The kind of a plan that is limited, or keyed: what `keyed` is asked with."""
        return self._kinds[plan.name]

    def begins(self, plan: RunPlan) -> None:
        """A task begins that may take long: those that ran before it need their slots no more."""
        if self._sharing.holding:
            own = int(plan.limits.max_concurrency is not None)
            if len(self._sharing.holding) > own:
                self._free_slots(but=own)

    def _free_slots(self, but: int = 0) -> None:
        for what in self._sharing.holding:
            self._kinds[what.partition("\0")[0]].bucket.not_before(0)
        try:
            self._sharing.free_all(but)
        except TransportError as error:
            _log.warning("slots of max_concurrency are given back later: %s", error)
        self._board.tell_agent()

    def batch_done(self) -> int:
        """The batch is settled: tokens that were not needed return, and so do slots.

        :returns: how many messages were parked.
        """
        if self._granted:
            for kind in self._granted.values():
                self._give_back(kind, 1)
            self._granted.clear()
        if self._sharing.holding:
            self._free_slots()
        if not self._parked:
            return 0
        for kind in self._parked.values():
            kind.bucket.park()
        self._board.tell_agent()
        self._parked.clear()
        parked, self._parked_n = self._parked_n, 0
        return parked
