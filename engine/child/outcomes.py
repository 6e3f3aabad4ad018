"""From what happened to what is sent: the `Outcome` of each delivery, by the table in `settle`."""

from __future__ import annotations

import logging
from typing import Any, Final

from ...transports.base import Delivery, Outcome, Outgoing, StoredResult, Verdict
from .. import states
from ..clock import wall_s
from ..einfo import ExceptionInfo, safe_text
from ..exceptions import (
    BackendStoreError,
    NotRegistered,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from ..execution import Executed, Interrupted, send_failure
from ..follow_ups import Following, on_failure, on_retry
from ..message import Embed, MalformedMessage, TaskMessage
from ..message_edit import with_header
from ..obituary import TERMINATED
from ..replacing import Replaced
from ..request import Context, context_of
from ..scoreboard import C_BODY, C_RUNNING, C_SHIELDED
from ..settle import AckPolicy, Ending, Settlement, settlement
from ..unreached import ENDS_CHAIN
from .admit import UNKNOWN_SINCE_HEADER, Refusal
from .announcing import tell_malformed, tell_refused, tell_terminated
from .chain_ends import ChainEnds
from .following import AfterSuccess, FollowingHere, Unmade
from .parts import Parts
from .plan import RunPlan
from .report import Reporter

# Each look at a member of an enumeration is a call on Python 3.11; these are looked at for every message.
_ACK: Final = Verdict.ACK
_DEAD: Final = Verdict.DEAD
_IGNORE: Final = Ending.IGNORE
_SUCCESS: Final = Ending.SUCCESS

_log = logging.getLogger("prefork.child")

_ENDINGS = {
    states.RETRY: Ending.RETRY,
    states.IGNORED: Ending.IGNORE,
    states.REVOKED: Ending.TERMINATED,
    states.SNOOZED: Ending.SNOOZE,
}


# What happened after all, and what is done, stored and sent because of it.
_Consequences = tuple[Executed, Ending, Settlement, tuple[StoredResult, ...], tuple[Outgoing, ...]]


def ending_of(executed: Executed) -> Ending:
    """What kind of end an execution came to."""
    if executed.state == states.SUCCESS:
        return _SUCCESS
    if executed.state == states.FAILURE:
        if isinstance(executed.value, Interrupted):
            return Ending.SHUTDOWN
        if isinstance(executed.value, SoftTimeLimitExceeded):
            return Ending.SOFT_LIMIT
        return Ending.HARD_LIMIT if isinstance(executed.value, TimeLimitExceeded) else Ending.FAILURE
    if executed.state == states.REJECTED:
        return Ending.REJECT_REQUEUE if executed.requeue else Ending.REJECT
    return _ENDINGS[executed.state]


class Outcomes:
    """Builds outcomes for one child."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._report = Reporter(parts)
        self.chain_ends = ChainEnds(parts)
        self._defaults = AckPolicy()
        self._bell = self._on_shield
        # Another one is written by a loop whose thread may not stand still, before it runs.
        self.after_success: AfterSuccess = FollowingHere(parts)
        self._chords: set[str] = set()  # tasks of which a chord's part was complained of

    def request(
        self,
        delivery: Delivery,
        message: TaskMessage,
        args: list[Any],
        kwargs: dict[str, Any],
        embed: Embed,
    ) -> Context:
        """What the task sees as ``self.request``."""
        return context_of(
            message,
            (args, kwargs, embed),
            queue=delivery.queue,
            redelivered=delivery.redelivered,
            crashes=delivery.crashes,
            node=self._parts.node,
            on_shield=self._bell,
        )

    def _on_shield(self, begins: bool) -> None:
        """The running execution enters its outermost `shield`, or leaves it."""
        words = self._parts.slot.words
        words[C_SHIELDED] = words[C_RUNNING] if begins else 0

    # --- messages that do not run -------------------------------------------------------------------

    def malformed(self, delivery: Delivery, error: MalformedMessage) -> Outcome:
        """The outcome of bytes that are no task message, or one that may not be read."""
        _log.error("malformed message in queue %r: %s", delivery.queue, error)
        tell_malformed(self._parts, delivery, error)
        ending = Ending.MALFORMED
        decided = settlement(ending, self._defaults)
        results: tuple[StoredResult, ...] = ()
        if error.task_id:
            results = self._parts.results.failure(error, task_id=error.task_id)
        results += self.chain_ends.of_message(delivery, None, error)
        assert decided.verdict is not None
        return Outcome(
            tag=delivery.tag,
            verdict=decided.verdict,
            reason=error.reason.value,
            causes=(error.detail,),
            results=results,
        )

    def refused(self, delivery: Delivery, message: TaskMessage, refusal: Refusal) -> Outcome:
        """The outcome of a message that does not run now, or not at all."""
        decided = settlement(refusal.ending, self._defaults)
        assert decided.verdict is not None
        tell_refused(
            self._parts,
            delivery,
            message,
            refusal.ending,
            lambda: self.request(delivery, message, [], {}, Embed()),
        )
        self._parts.uniqueness.ended(delivery, message, refusal.ending, decided.verdict)
        if refusal.ending is Ending.UNKNOWN_TASK:
            return self._deferred_unknown(delivery, message, refusal)
        if refusal.ending is Ending.NOT_DUE:
            return Outcome(tag=delivery.tag, verdict=decided.verdict, due_wall_s=refusal.due_wall_s)
        error: Exception = TaskRevokedError(refusal.detail)
        if refusal.ending is Ending.UNKNOWN_TASK_FOR_GOOD:
            error = NotRegistered(message.task)
        _log.warning("%s[%s]: %s", message.task, message.id, refusal.detail)
        results = self._parts.results.failure(
            error,
            task_id=message.id,
            message=message,
            state=decided.state or states.FAILURE,
        )
        results += self.chain_ends.of_message(delivery, message, error, decided.state or states.FAILURE)
        return Outcome(
            tag=delivery.tag,
            verdict=decided.verdict,
            reason=refusal.ending.value.replace(" ", "-"),
            causes=(refusal.detail,),
            results=results,
        )

    def replaced(self, delivery: Delivery, message: TaskMessage, by: str) -> Outcome:
        """The outcome of a unique task in whose place another one runs."""
        return self.refused(delivery, message, Refusal(Ending.REVOKED, detail=f"replaced by {by}"))

    def _deferred_unknown(self, delivery: Delivery, message: TaskMessage, refusal: Refusal) -> Outcome:
        """Wait, with the moment since when it waits written into the message."""
        if UNKNOWN_SINCE_HEADER in message.all_headers(self._parts.table):
            return Outcome(tag=delivery.tag, verdict=Verdict.DEFER, due_wall_s=refusal.due_wall_s)
        _log.warning("%s[%s]: %s; waiting", message.task, message.id, refusal.detail)
        document = with_header(delivery.document, UNKNOWN_SINCE_HEADER, wall_s())
        later = Outgoing(delivery.queue, document, delivery.priority, refusal.due_wall_s)
        return Outcome(tag=delivery.tag, verdict=Verdict.ACK, follow_ups=(later,))

    def unanswered(
        self, delivery: Delivery, message: TaskMessage, plan: RunPlan, request: Context, error: Exception
    ) -> Outcome:
        """The outcome of a message whose early acknowledgement was sent, and the answer to it lost.

        It is acknowledged, most likely: it comes to nobody again. It may as well have been taken back, and
        run by somebody else: to start it here could be a second start.
        """
        lost = WorkerLostError(f"it was acknowledged before its start, and did not start: {error}")
        failed = Executed(states.FAILURE, lost, ExceptionInfo(lost))
        send_failure(plan.task, request, lost, failed.einfo)
        return self.executed(delivery, message, plan, request, failed, 0)

    def terminated(self, executed: Executed, plan: RunPlan, request: Context, signum: int) -> Executed:
        """What became of an execution that somebody wanted to end: what it returned counts, if it did."""
        if executed.state != states.FAILURE:
            return executed
        tell_terminated(self._parts, plan.task, request, signum)
        error = TaskRevokedError(TERMINATED)
        return Executed(states.REVOKED, error, executed.einfo)

    # --- messages that ran --------------------------------------------------------------------------

    def storable(self, request: Context, executed: Executed) -> Executed:
        """See `execution.Storable`; the document that is made for it is the one that is stored.

        Encoding may run the user's code, which may raise anything. The task has returned: its soft limit
        is not for what comes now, and would look like a value that has no form.
        """
        words = self._parts.slot.words
        message = request.message
        plan = None if message is None else self._parts.plan(message.task)
        assert message is not None and plan is not None  # it ran
        if not self._is_stored(plan, message, executed):
            return executed
        body = words[C_BODY]
        try:
            words[C_BODY] = 0
            return self._parts.results.ahead(message, request, executed)
        except Interrupted:
            raise
        except BaseException as error:
            return Executed(states.FAILURE, error, ExceptionInfo(error))
        finally:
            words[C_BODY] = body

    def executed(
        self,
        delivery: Delivery,
        message: TaskMessage,
        plan: RunPlan,
        request: Context,
        executed: Executed,
        runtime_ns: int,
    ) -> Outcome:
        """The outcome of an execution.

        For a message that was acknowledged before its start only results and follow-ups count.
        Nothing of the user's that runs in here can raise past it.

        :raises Unmade: by `after_success`, if that is another one than `FollowingHere`.
        """
        executed, ending, decided, results, follow_ups = self._consequences(
            delivery, message, plan, request, executed
        )
        if message.more_headers is not None:
            self._parts.uniqueness.executed(delivery, message, executed, ending, decided.verdict)
        self._report.ended(plan, message, executed, ending, runtime_ns)
        if isinstance(executed.value, MemoryError):
            # Whatever filled the memory may still be there: another process carries on.
            self._parts.wear_out()
        reason = ""
        causes: tuple[str, ...] = ()
        verdict = decided.verdict
        if verdict is _DEAD:
            reason = ending.value.replace(" ", "-")
            value = executed.value.reason if isinstance(executed.value, Reject) else executed.value
            causes = (value if isinstance(value, str) else safe_text(value),)
        return Outcome(
            tag=delivery.tag,
            verdict=_ACK if verdict is None else verdict,
            reason=reason,
            causes=causes,
            follow_ups=follow_ups,
            results=results,
        )

    def _consequences(
        self,
        delivery: Delivery,
        message: TaskMessage,
        plan: RunPlan,
        request: Context,
        executed: Executed,
    ) -> _Consequences:
        """What is stored and sent; a result, retry or callback that cannot be makes it a failure.

        Encoding and callbacks may run the user's code, which may raise anything.
        """
        try:
            return self._weigh(delivery, message, plan, request, executed)
        except Unmade:
            raise
        except BaseException as error:
            _log.error("%s[%s]: what follows cannot be sent: %s", message.task, message.id, safe_text(error))
            failed = Executed(states.FAILURE, error, ExceptionInfo(error))
        try:
            return self._weigh(delivery, message, plan, request, failed)
        except BaseException as error:
            _log.error("%s[%s]: its failure cannot be stored: %s", message.task, message.id, safe_text(error))
            plain = BackendStoreError(f"the outcome cannot be stored: {safe_text(error, 512)}")
            failed = Executed(states.FAILURE, plain, ExceptionInfo(plain))
            results = self._parts.results.failure(plain, task_id=message.id, message=message, in_brief=True)
            results += self.chain_ends.of_execution(plan, message, request, failed, states.FAILURE)
            return failed, Ending.FAILURE, settlement(Ending.FAILURE, plan.acks), results, ()

    def _weigh(
        self,
        delivery: Delivery,
        message: TaskMessage,
        plan: RunPlan,
        request: Context,
        executed: Executed,
    ) -> _Consequences:
        ending = ending_of(executed)
        decided = plan.after_success if ending is _SUCCESS else settlement(ending, plan.acks)
        results: tuple[StoredResult, ...] = ()
        if decided.state is not None and self._is_stored(plan, message, executed):
            encoded, results = self._parts.results.executed(message, request, executed, decided.state)
            if encoded is not executed:  # it could not be stored as it was
                executed, ending = encoded, ending_of(encoded)
                decided = settlement(ending, plan.acks)
        follow_ups: tuple[Outgoing, ...] = ()
        if request.chord:
            self._complain_of_chord(message)
        if (
            executed.retry is not None
            or request.callbacks
            or request.chain
            or request.errbacks
            or ending is _IGNORE
        ):
            is_final = decided.state is not None
            follow_ups, unsent = self._follow_ups(delivery, message, request, executed, is_final)
            if unsent:
                results += self.chain_ends.of_unsent(unsent)
            if request.chain and decided.state in ENDS_CHAIN:
                results += self.chain_ends.of_execution(plan, message, request, executed, decided.state)
        return executed, ending, decided, results, follow_ups

    def _complain_of_chord(self, message: TaskMessage) -> None:
        """Say, once per task, that nobody counts the parts of a chord that Celery began."""
        if message.task not in self._chords:
            self._chords.add(message.task)
            _log.error(
                "%s[%s] is part of a chord, which this version does not complete: its result is stored, "
                "and the body is never called; leave the queue %s to Celery's workers",
                message.task,
                message.id,
                message.routing_key or "of such tasks",
            )

    def _is_stored(self, plan: RunPlan, message: TaskMessage, executed: Executed) -> bool:
        """Whether anybody is told; a message's own wish wins over the task's (interop §8.11)."""
        ignored = plan.ignore_result if message.ignore_result is None else message.ignore_result
        return not ignored or (plan.store_errors and executed.state == states.FAILURE)

    def _follow_ups(
        self,
        delivery: Delivery,
        message: TaskMessage,
        request: Context,
        executed: Executed,
        is_final: bool,
    ) -> Following:
        app = self._parts.app
        if isinstance(executed.value, Replaced):
            return Following(executed.value.messages)
        if executed.retry is not None:
            again = on_retry(app, message, self._parts.table, delivery.queue, executed.retry)
            return Following(again)
        if executed.state == states.SUCCESS and (request.callbacks or request.chain):
            return self.after_success(message, request, executed.value)
        if executed.state == states.FAILURE and is_final and request.errbacks:
            # A message that will run again has not failed yet.
            return Following(on_failure(app, request, executed))
        return Following()
