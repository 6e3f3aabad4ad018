"""What a child is made of, put together once at its boot."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Sequence
from typing import Any

from setproctitle import setproctitle

from ...transports.base import Outcome, StoredResult
from ...transports.errors import TransportError
from ..clock import mono_s
from ..limits.board import RateBoard
from ..limits.kinds import declare_all
from ..loaded_app import Loaded
from ..message import TaskMessage
from ..process_link import ProcessLink
from ..refusals import Refusals
from ..result_writer import ResultWriter
from ..revocations import Revocations
from ..revoked_board import A_COUNT, RevokedBoard
from ..scoreboard import BATCH_MAX, Scoreboard, Slot
from ..settling import is_permanent
from ..storage import Storage, open_storage
from ..time_limit_board import TimeLimitBoard
from ..unreached import Unreached
from .driving import Driver
from .limiter import Limiter
from .picking import picker_of
from .plan import RunPlan
from .readahead import ReadAhead
from .uniqueness import Uniqueness

_log = logging.getLogger("prefork.child")


class Parts:
    """The parts of one child. Everything is written once, at the boot, unless it says otherwise."""

    def __init__(
        self,
        loaded: Loaded,
        storage: Storage,
        slot: Slot,
        board_words: memoryview,
        *,
        doorbell_fd: int,
        node: str,
        owner: str,
        worker_id: str,
        replaceable: bool = True,
        titled: bool = True,
        scoreboard: Scoreboard | None = None,
        rates: RateBoard | None = None,
    ) -> None:
        config = loaded.config
        self.revoked_board = RevokedBoard(board_words.obj)
        self._revoked_words = self.revoked_board.words
        self.time_limits = TimeLimitBoard(board_words.obj, board_words)
        self.app = loaded.app
        self.config = config
        self.node = node
        self.sender = loaded.sender
        self.slot = slot
        self.board_words = board_words
        # None where there are no other children beside this one.
        self.scoreboard = scoreboard
        self.doorbell_fd = doorbell_fd
        self.storage = storage
        self.settler = storage.settler
        self.table = storage.table
        self.table.allow_unpickling()
        self._queues: list[str] = loaded.options["queues"]
        self.consumer = storage.transport.consumer(self._queues, owner, worker_id)
        # None where the broker's own order is what is wanted.
        self.picker = picker_of(self.consumer, self._queues, config, storage.transport.capabilities)
        # Whether workers of other makes may retry what comes here (`rest`): they store, too.
        self.foreign_retries = storage.transport.capabilities.routes and storage.store is not None
        self._refusals = Refusals(loaded.app, self.table, stored=storage.store is not None, node=node)
        self.results = ResultWriter(config, self.table, enabled=storage.store is not None, node=node)
        self.unreached = Unreached(loaded.app, config, self.results)
        self._started = self.results.on_start({"pid": os.getpid(), "hostname": node})
        self._revocations = Revocations(lambda: storage.store, self.table.by_name(config.result_serializer))
        self.read_ahead = _read_ahead(config)
        self.uniqueness = Uniqueness(storage.transport, loaded.app.tasks, slot)
        self.driver = Driver()
        self._plans: dict[str, RunPlan | None] = {}
        self._replaceable = replaceable
        self._max_tasks: int | None = loaded.options["max_tasks_per_child"] if replaceable else None
        self._title = f"prefork: {node}: child {slot.index}"
        self._titled = titled
        self._shown: str | None = ""  # so that the first title, of no task, is shown
        # Written by the loop's thread: executions so far, and a wish to be replaced (out of memory).
        self.executed = 0
        self.worn_out = False
        self.limiter = self._limiter(rates or RateBoard(scoreboard or Scoreboard()), worker_id)

    def _limiter(self, board: RateBoard, worker_id: str) -> Limiter:
        """Keep the limits of the tasks, by the worker's buckets.

        :raises ImproperlyConfigured: a task asks for a limit that is none, or that this broker cannot keep.
        """
        declare_all(board, self.app.tasks.values(), self.config)
        return Limiter(
            board,
            self.storage.transport,
            self.consumer,
            self.plan,
            lambda: list(self.app.tasks),
            self._queues,
            worker_id,
            self.table,
        )

    def plan(self, task_name: str) -> RunPlan | None:
        """How a task is run; None when no task of this name is registered."""
        try:
            return self._plans[task_name]
        except KeyError:
            task = self.app.tasks.get(task_name)
            plan = None if task is None else RunPlan(task, self.config, self.read_ahead.kind(task_name))
            if plan is not None:
                # Names that are not registered come from outside: there is no end of them.
                self._plans[task_name] = plan
            return plan

    def retired(self) -> bool:
        """Has this child done its share, so that it must be replaced?"""
        return self.worn_out or (self._max_tasks is not None and self.executed >= self._max_tasks)

    def wear_out(self) -> None:
        """This process had better be replaced, if there is anybody to do it."""
        self.worn_out = self._replaceable

    def tasks_left(self) -> int:
        """How many more tasks this child may start."""
        return (1 << 30) if self._max_tasks is None else max(0, self._max_tasks - self.executed)

    def set_title(self, task_name: str | None) -> None:
        """Show in the process list what is running."""
        if self._titled and task_name != self._shown:
            self._shown = task_name
            setproctitle(f"{self._title}: {task_name or 'idle'}")

    def pause(self, seconds: float) -> None:
        """Wait before the next attempt at something that failed."""
        select.select([], [], [], seconds)

    def revoked(self, message: TaskMessage) -> bool:
        """Was this task revoked, or what it is stamped with?

        The board costs one read while nothing is on it. What only the result store knows is not known while
        that is away, and the task runs.
        """
        if self._revoked_words[A_COUNT] and self.revoked_board.revokes(message.id, message.stamps):
            return True
        now_mono_s = mono_s()
        if now_mono_s < self._revocations.none_until_mono_s:
            return False
        try:
            return self._revocations.revoked(message.id, now_mono_s)
        except TransportError as error:
            _log.warning("cannot tell whether %s was revoked: %s", message.id, error)
            return False

    def store_started(self, tag: bytes, message: TaskMessage, plan: RunPlan) -> None:
        """Store that the task of a delivery has started, unless its result is ignored."""
        ignored = plan.ignore_result if message.ignore_result is None else message.ignore_result
        if self.storage.store is None or ignored:
            return
        try:
            started = self._started(message)
            # A short task is over before the packet of its own would be read.
            self.settler.inform(self.consumer, tag, started, more=plan.kind.short)
        except TransportError as error:
            # It only informs; the task need not wait for it.
            _log.warning("cannot store that %s has started: %s", message.id, error)

    def send_early(self, outcome: Outcome, message: TaskMessage) -> Sequence[StoredResult]:
        """Send what follows from a message that was acknowledged before its start.

        It goes before the result, as Celery does it: where the broker will never take it, there still is
        a result to say so.

        :returns: the results to store then.
        :raises TransportError: the broker cannot be reached; to be called again.
        """
        if not outcome.follow_ups:
            return outcome.results
        try:
            self.storage.transport.send(outcome.follow_ups)
        except (TransportError, ValueError) as error:
            if not is_permanent(error):
                raise
            return self._refusals.early(message, error, outcome.results, unsent=True)
        return outcome.results

    def store_early(self, results: Sequence[StoredResult], message: TaskMessage) -> None:
        """Store for a message that was acknowledged before its start.

        :raises TransportError: the store cannot be reached, or refuses even a failure.
        """
        store = self.storage.store
        if store is None or not results:
            return
        try:
            store.store(results)
        except (TransportError, ValueError) as error:
            if not is_permanent(error):
                raise
            store.store(self._refusals.early(message, error, results))

    def give_back(self) -> None:
        """Return what is held; if the broker cannot be reached, others take it over."""
        try:
            self.consumer.close()
        except TransportError as error:
            _log.error("what is still held is left to others: %s", error)

    def close(self) -> None:
        """Close the connections; what is still held stays held."""
        self.storage.close()


def _read_ahead(config: Any) -> ReadAhead:
    """How many messages are reserved at once: bounded by the settings, and by what a slot can show."""
    bound = 1 if config.worker_disable_prefetch else config.worker_prefetch_multiplier or BATCH_MAX
    at_most = min(bound, config.worker_read_ahead_max, BATCH_MAX)
    return ReadAhead(config.worker_read_ahead_ms / 1000, at_most)


def build(link: ProcessLink, loaded: Loaded, slot: Slot, owner: str) -> Parts:
    """Put a child together: own connections, nothing shared but the scoreboard."""
    parts = Parts(
        loaded,
        open_storage(loaded.app),
        slot,
        link.scoreboard.words,
        doorbell_fd=link.doorbell_fd,
        node=link.node,
        owner=owner,
        worker_id=link.worker_id,
        scoreboard=link.scoreboard,
    )
    parts.set_title(None)
    return parts
