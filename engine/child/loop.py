"""The worker loop: reserve, decode, execute, store, acknowledge. It reads from message to outcome.

One thread of one child runs it. Everything it decides is decided elsewhere, by pure functions:
`admit` (may it run), `settle` (what becomes of the message), `readahead` (how many to hold).

The claim protocol (design §4, tests/engine/child/test_recall_simulation.py): the child writes its
claim (C_CURSOR), then looks at the recall mark (S_MARK), then runs. The supervisor moves the mark
only while the child is confirmed stopped. So each message is either claimed before the mark was
moved, and then it is the child's, or the child sees the mark.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from ...transports.base import Delivery, Outcome, Streams
from ...transports.errors import OwnerLost, TransportError
from .. import signals
from ..clock import mono_ns
from ..message import Embed, MalformedMessage, TaskMessage, parse
from ..request import Context
from ..revoked_keys import slot_id
from ..scoreboard import (
    A_TIME_LIMITS,
    BATCH_MAX,
    C_BATCH,
    C_BUSY_NS,
    C_CURSOR,
    C_EXECUTIONS,
    C_HARD_LIMIT_MS,
    C_HARD_NS,
    C_HELD,
    C_LOOP_NS,
    C_POLICY,
    C_RESERVED_NS,
    C_RUNNING,
    C_SOFT_LIMIT_MS,
    C_SOFT_NS,
    C_START_NS,
    C_STATE,
    S_MARK,
    S_PAUSED,
    S_STOP,
    S_TERMINATED,
    S_TERMINATION_SIGNAL,
    Policy,
    State,
    Stop,
)
from ..settling import encode_outcome
from ..task_context import clear_current, set_current
from .announcing import tell_received
from .attempts import Attempts
from .early import EarlyAcknowledgement
from .gate import Gate
from .idle import Idle
from .outcomes import Outcomes
from .parts import Parts
from .plan import RunPlan
from .processor import Processor
from .readahead import SHORT_S
from .trial import run_body

# Outcomes are settled at the latest this long after the first of them.
_SETTLE_NS: Final = 4_000_000
_LONG_NS: Final = int(SHORT_S * 1e9)

EXIT_AS_TOLD: Final = 0
EXIT_OWNER_LOST: Final = 4  # also known to supervisor.deaths
EXIT_UNSETTLED: Final = 5

_log = logging.getLogger("prefork.child")

Opened = tuple[TaskMessage, RunPlan, tuple[list[Any], dict[str, Any], Embed]]
"""A message that runs now: its headers, how its task is run, and its payload."""


class WorkerLoop:
    """Runs messages until told to leave."""

    def __init__(self, parts: Parts, idle: Idle) -> None:
        self._parts = parts
        self._idle = idle
        self._consumer = parts.consumer
        self._source = parts.picker or parts.consumer
        self._slot = parts.slot
        self._words = parts.slot.words
        self._board = parts.board_words
        self._outcomes = Outcomes(parts)
        self._storable = self._outcomes.storable
        self._ahead = parts.read_ahead
        self._processor = Processor()
        # Outcomes that are not settled yet, oldest first, and when the first of them came.
        self._pending: list[Outcome] = []
        self._pending_since_ns = 0
        # Messages of this batch that did not run: not due yet, expired, and the like.
        self._passed_over = 0
        self._attempts = Attempts(parts)
        self._limiter = parts.limiter
        self._gate = Gate(parts, self._outcomes, self._attempts, parts.limiter)
        self._early = EarlyAcknowledgement(parts, self._outcomes, self._attempts)
        self._exit_code = EXIT_AS_TOLD
        # Where the broker may push what nobody has reserved: then one message more than the batch has is
        # announced as held, so that the supervisor has that recalled, too, when a task takes long.
        self._stream: Streams | None = None

    def stream(self) -> None:
        """Allow the broker to push while a batch runs. Only where somebody recalls what is held."""
        if isinstance(self._consumer, Streams) and self._parts.picker is None:
            self._consumer.allow_streaming()
            self._stream = self._consumer

    def run(self) -> int:
        """Run until the supervisor says to leave; what is held is settled or given back.

        :returns: `EXIT_AS_TOLD`; `EXIT_OWNER_LOST` when somebody has taken over what this child
            held, so that nobody would recover what it went on to reserve; `EXIT_UNSETTLED` when the
            broker could not be told what became of the last messages: then nothing may be given
            back, and the agent settles from the outcome area.
        """
        words = self._words
        words[C_STATE] = State.IDLE
        os.eventfd_write(self._parts.doorbell_fd, 1)
        while words[S_STOP] == Stop.RUN and self._exit_code == EXIT_AS_TOLD:
            token = self._idle.before_looking()
            now_ns = mono_ns()
            words[C_LOOP_NS] = now_ns
            if self._parts.retired():
                self._end_stream()
                self._announce(State.RETIRING)
                self._idle.wait(token)
                continue
            deliveries = self._reserve()
            if self._exit_code != EXIT_AS_TOLD:
                break
            if deliveries:
                words[C_STATE] = State.WORKING
                self._idle.worked()
                self._batch(deliveries)
            elif words[C_STATE] != State.IDLE:
                self._parts.set_title(None)
                # Announce first, look once more, and only then sleep: whoever brings a message
                # after that look sees the announcement.
                self._announce(State.IDLE)
            else:
                self._idle.wait(token)
        self._settle()
        return self._exit_code

    def _announce(self, state: int) -> None:
        if self._words[C_STATE] != state:
            self._words[C_STATE] = state
            if state == State.RETIRING:
                os.eventfd_write(self._parts.doorbell_fd, 1)

    def _reserve(self) -> list[Delivery]:
        if self._board[S_PAUSED]:
            self._end_stream()
            return []
        try:
            limit = min(self._ahead.limit(), self._parts.tasks_left())
            if self._stream is not None:
                limit = min(limit, BATCH_MAX - 1)
            deliveries = self._limiter.reserve(limit) or self._source.reserve(limit)
        except OwnerLost as error:
            _log.error("%s; a new process takes this one's place", error)
            self._exit_code = EXIT_OWNER_LOST
            return []
        except TransportError as error:
            self._attempts.failed(error)
            return []
        self._words[C_RESERVED_NS] = mono_ns()
        self._attempts.succeeded()
        return deliveries

    # --- one batch -------------------------------------------------------------------------------

    def _batch(self, deliveries: list[Delivery]) -> None:
        """Run a batch: claim each message, run it, settle now and then, give back the rest."""
        words, held = self._words, len(deliveries)
        batch = self._announce_batch(deliveries)
        self._processor.begin()
        all_short, slowest_s, ran = True, 0.0, 0
        for index, delivery in enumerate(deliveries):
            words[C_CURSOR] = index + 1
            mark = words[S_MARK]
            if mark >> 16 == batch and index >= mark & 0xFFFF:
                held = index  # recalled: these are not ours any more
                break
            if words[S_STOP] != Stop.RUN:
                words[C_CURSOR] = index
                held = index
                break
            opened = self._opened(delivery, index + 1 < held)
            plan = None if opened is None else self._start(delivery, opened, deliveries, index, held)
            if plan is not None:
                ran += 1
                all_short = all_short and plan.kind.short
                slowest_s = max(slowest_s, plan.kind.average_s)
            if words[C_HELD] <= index + 1 or self._parts.worn_out:
                held = index + 1
                break
            if self._pending and mono_ns() - self._pending_since_ns > _SETTLE_NS:
                self._settle()
                self._processor.begin()  # that may have waited for the broker; the next run has not
        self._settle()
        if held < len(deliveries) and words[C_HELD] > held:
            # Recalled by the supervisor, or told to leave. Giving back is checked per message and
            # batch, so it does no harm if the agent has done it already (or will, later).
            self._give_back(deliveries[held:])
        words[C_HELD] = 0
        # To move a message to its lane, or to pass it over, takes no longer than the shortest of tasks.
        moved, self._passed_over = self._limiter.batch_done() + self._passed_over, 0
        if all_short or not self._limiter.from_lane:
            # What came from a lane and is long says nothing of what is to come from the queues.
            self._ahead.batch_done(ran + moved, all_short, slowest_s)

    def _announce_batch(self, deliveries: list[Delivery]) -> int:
        words = self._words
        batch = words[C_BATCH] + 1
        words[C_HELD] = 0
        words[C_CURSOR] = 0
        tags = [delivery.tag for delivery in deliveries]
        if self._stream is not None and self._stream.streaming:
            tags.append(b"")
        self._slot.write_tags(tags)
        words[C_BATCH] = batch
        words[C_HELD] = len(tags)
        return batch

    def _give_back(self, deliveries: list[Delivery]) -> None:
        self._attempts.make(lambda: self._consumer.give_back([delivery.tag for delivery in deliveries]))

    def _end_stream(self) -> None:
        """Give back what has come and was not reserved."""
        if self._stream is not None and self._stream.streaming:
            self._give_back([])

    # --- one message -----------------------------------------------------------------------------

    def _opened(self, delivery: Delivery, more: bool) -> Opened | None:
        """Read a message that runs now; None when it does not, and its outcome is known."""
        parts = self._parts
        try:
            message = parse(delivery.document, parts.table)
            plan = parts.plan(message.task)
            stopped = self._gate.stopped(delivery, message, plan)
            if stopped is None:
                assert plan is not None  # the gate stops every task that is not known
                payload = message.payload(parts.table)
                if not plan.keyed:
                    return message, plan, payload
                stopped = self._gate.stopped_by_key(delivery, message, plan, payload[0], payload[1])
                if stopped is None:
                    return message, plan, payload
        except MalformedMessage as error:
            stopped = self._outcomes.malformed(delivery, error)
        self._passed_over += 1
        self._done(stopped, more)
        return None

    def _start(
        self, delivery: Delivery, opened: Opened, batch: list[Delivery], index: int, held: int
    ) -> RunPlan | None:
        """Run a message that was read; returns its plan if it ran."""
        parts = self._parts
        message, plan, (args, kwargs, embed) = opened
        if not plan.kind.short or delivery.suspect:
            # Not known to be short: nobody else's work or result may have to wait for it.
            self._settle()
            if self._words[C_HELD] > index + 1:
                self._words[C_HELD] = index + 1
                self._give_back(batch[index + 1 :])
                held = index + 1
            self._limiter.begins(plan)
            parts.set_title(plan.name)
        if not self._may_start(delivery, message, plan):
            return None
        request = self._outcomes.request(delivery, message, args, kwargs, embed)
        if signals.task_received.receivers:
            tell_received(parts, plan.task, request)
        return plan if self._run(delivery, message, plan, request, index + 1 < held) else None

    def _may_start(self, delivery: Delivery, message: TaskMessage, plan: RunPlan) -> bool:
        """Put on record that it starts, where that must be; False: somebody took it back."""
        if delivery.suspect and not self._attempts.make(lambda: self._consumer.mark_started(delivery.tag)):
            return False
        if message.more_headers is not None:
            limit_s = plan.hard_limit_s if message.time_limit_s is None else message.time_limit_s
            replaced_by = self._parts.uniqueness.started(message, limit_s)
            if replaced_by is not None:
                self._done(self._outcomes.replaced(delivery, message, replaced_by), True)
                return False
        if plan.track_started and plan.acks.late:
            self._parts.store_started(delivery.tag, message, plan)
        return True

    def _run(
        self, delivery: Delivery, message: TaskMessage, plan: RunPlan, request: Context, more: bool
    ) -> bool:
        """Run one execution under its limits; False when it was taken back just before."""
        parts, words = self._parts, self._words
        number = words[C_EXECUTIONS] + 1
        words[C_EXECUTIONS] = number
        self._slot.write_texts(slot_id(message.id), plan.name_bytes, delivery.tag)
        ignored = plan.ignore_result if message.ignore_result is None else message.ignore_result
        words[C_POLICY] = plan.policy_bits | (Policy.IGNORE_RESULT if ignored else 0)
        if not plan.acks.late and not self._early.acknowledge(delivery, message, plan, request):
            return False
        start_ns = self._set_limits(message, plan)
        words[C_RUNNING] = number
        set_current(message.id, plan.name)
        executed = run_body(plan.task, request, words, number, parts.driver, self._storable)
        runtime_ns = mono_ns() - start_ns
        parts.executed += 1
        if words[S_TERMINATED] == number:
            executed = self._outcomes.terminated(executed, plan, request, words[S_TERMINATION_SIGNAL])
        # Encoding and error callbacks are the user's code too: still under the hard limit.
        outcome = self._outcomes.executed(delivery, message, plan, request, executed, runtime_ns)
        clear_current()
        words[C_RUNNING] = 0
        busy_ns = mono_ns() - start_ns
        words[C_BUSY_NS] += busy_ns
        if busy_ns >= _LONG_NS:
            busy_ns = self._processor.own_ns(busy_ns)
        plan.kind.add(busy_ns / 1e9)
        if plan.acks.late:
            self._done(outcome, more)
        else:
            self._early.publish(outcome, message)
        return True

    def _set_limits(self, message: TaskMessage, plan: RunPlan) -> int:
        """Write start and deadlines; returns the start."""
        words = self._words
        soft_s, hard_s = self._limits(message, plan)
        start_ns = mono_ns()
        words[C_START_NS] = start_ns
        words[C_SOFT_LIMIT_MS] = int(soft_s * 1000) if soft_s else 0
        words[C_HARD_LIMIT_MS] = int(hard_s * 1000) if hard_s else 0
        words[C_SOFT_NS] = start_ns + int(soft_s * 1e9) if soft_s else 0
        words[C_HARD_NS] = start_ns + int(hard_s * 1e9) if hard_s else 0
        return start_ns

    def _limits(self, message: TaskMessage, plan: RunPlan) -> tuple[float | None, float | None]:
        """Soft and hard limit in seconds. The message's own limits win, but for a command's."""
        changes = self._board[A_TIME_LIMITS]
        if changes != plan.limits_seen:
            plan.look_up_limits(self._parts.time_limits, changes)
        soft_s, hard_s = message.soft_time_limit_s, message.time_limit_s
        if plan.run_time is not None:
            return plan.limits_after_command(soft_s, hard_s, self._parts.config)
        return (
            plan.soft_limit_s if soft_s is None else soft_s,
            plan.hard_limit_s if hard_s is None else hard_s,
        )

    # --- settling --------------------------------------------------------------------------------

    def _done(self, outcome: Outcome, more: bool) -> None:
        """Keep an outcome until the next settle, where it survives this process if more will run."""
        if not self._pending:
            self._pending_since_ns = mono_ns()
        self._pending.append(outcome)
        if more and not self._slot.append_outcome(encode_outcome(outcome)):
            self._settle()

    def _settle(self) -> None:
        """Settle what is pending; tries until it succeeds or the worker is told to leave."""
        pending = self._pending
        if not pending:
            return
        answers = self._attempts.make(lambda: self._parts.settler.settle(self._consumer, pending))
        self._clear_outcomes()
        if answers is None:
            self._parts.uniqueness.forget()
            self._leave_to_agent()
            return
        for outcome, settled in zip(pending, answers, strict=True):
            if not settled:
                _log.info("delivery %s was settled or taken back meanwhile", outcome.tag.hex())
        self._pending = []
        if self._parts.uniqueness.waiting:
            self._parts.uniqueness.settled(pending, answers)

    def _clear_outcomes(self) -> None:
        self._slot.clear_outcomes()

    def _leave_to_agent(self) -> None:
        """The worker leaves and the broker is away: the agent settles when it is back."""
        self._exit_code = EXIT_UNSETTLED
        for outcome in self._pending:
            if not self._slot.append_outcome(encode_outcome(outcome)):
                _log.error("delivery %s will run again: there is no room for its outcome", outcome.tag.hex())
