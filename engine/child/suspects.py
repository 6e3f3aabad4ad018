"""What is decided about a suspect instead of running it: it crashed too often, or was ended on purpose."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import msgspec

from ...transports.base import REASON_CRASHES, Delivery, Outcome, Outgoing, Remembers, StoredResult, Verdict
from .. import states
from ..clock import wall_s
from ..einfo import ExceptionInfo
from ..exceptions import TaskRevokedError, WorkerLostError
from ..execution import Executed, send_failure
from ..message import TaskMessage
from ..message_chain import is_harmless
from ..obituary import CONSUMER_TIMEOUT, read_note
from ..refusals import errbacks_of, is_failure_stored
from ..revoked_keys import slot_id
from ..scoreboard import C_RUNNING, S_HIGH_SLOT, S_PID, SLOTS, Scoreboard
from .announcing import tell_crashed
from .outcomes import Outcomes
from .parts import Parts
from .plan import RunPlan

REST_S: Final = 2.0

_log = logging.getLogger("prefork.child")


def runs_beside(scoreboard: Scoreboard, own_index: int, task_id: str) -> bool:
    """Whether another child of this worker runs a task with this id now."""
    shown = slot_id(task_id)
    for index in range(min(scoreboard.words[S_HIGH_SLOT], SLOTS)):
        slot = scoreboard.slot(index)
        if index != own_index and slot.words[S_PID] and slot.words[C_RUNNING]:
            if slot.read_texts().raw_id == shown:
                return True
    return False


def judged(
    parts: Parts, outcomes: Outcomes, delivery: Delivery, message: TaskMessage, plan: RunPlan
) -> Outcome | None:
    """The outcome of a suspect that does not run again; None when it may.

    :raises TransportError: the broker cannot be asked.
    """
    if delivery.crashes >= parts.config.task_max_crashes:
        return _crashed_too_often(parts, outcomes, delivery, message)
    if not isinstance(parts.consumer, Remembers):
        return None
    if parts.scoreboard is not None and runs_beside(parts.scoreboard, parts.slot.index, message.id):
        # Its first holder was cut off, or held it beyond the broker's patience, and works on.
        return Outcome(tag=delivery.tag, verdict=Verdict.DEFER, due_wall_s=wall_s() + REST_S)
    note = parts.consumer.obituary(delivery.tag)
    if note is None:
        return None
    left = read_note(note)
    if isinstance(left.error, TaskRevokedError):
        results = parts.results.failure(left.error, task_id=message.id, message=message, state=states.REVOKED)
        results += outcomes.chain_ends.of_message(delivery, message, left.error, states.REVOKED)
        return Outcome(tag=delivery.tag, results=results)
    request = outcomes.request(delivery, message, *message.payload(parts.table))
    executed = Executed(states.FAILURE, left.error, ExceptionInfo(left.error))
    outcome = outcomes.executed(delivery, message, plan, request, executed, 0)
    send_failure(plan.task, request, left.error, executed.einfo)
    if left.dead:
        reason = CONSUMER_TIMEOUT.replace("_", "-")
        return msgspec.structs.replace(outcome, verdict=Verdict.DEAD, reason=reason, causes=(left.cause,))
    return msgspec.structs.replace(outcome, verdict=Verdict.ACK, reason="", causes=())


def _crashed_too_often(parts: Parts, outcomes: Outcomes, delivery: Delivery, message: TaskMessage) -> Outcome:
    """A dead letter, its error callbacks and the end of its chain, unless to read its arguments may kill.

    They lie in one body with the arguments. Who dies of it here dies before anything is settled, and the
    next one after it.
    """
    causes = "; ".join(delivery.causes) or REASON_CRASHES
    _log.error(
        "dead letter: %s[%s], queue %s, %d crashes: %s",
        message.task,
        message.id,
        delivery.queue,
        delivery.crashes,
        causes,
    )
    error = WorkerLostError(f"dead-lettered after {delivery.crashes} crashes: {causes}")
    results: tuple[StoredResult, ...] = ()
    if is_failure_stored(parts.app, parts.config, message):
        results = parts.results.failure(error, task_id=message.id, message=message)
    follow_ups: tuple[Outgoing, ...] = ()
    readable = is_harmless(message)
    if readable:
        results += outcomes.chain_ends.of_message(delivery, message, error)
        follow_ups = errbacks_of(parts.app, parts.table, delivery, message, error, parts.node)
    else:
        _log.warning(
            "%s[%s] is dead-lettered without calling its error callbacks: its arguments (%s, %d bytes) may "
            "be what kills",
            message.task,
            message.id,
            message.content_type,
            len(delivery.document),
        )
    tell_crashed(parts, message, partial(outcomes.request, delivery, message), error, readable=readable)
    return Outcome(
        tag=delivery.tag,
        verdict=Verdict.DEAD,
        reason=REASON_CRASHES,
        follow_ups=follow_ups,
        results=results,
    )
