"""Everything that may stand between a reserved message and its run, in order.

Nothing here decodes a body: what a message says about itself is in its headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...transports.base import Delivery, Outcome, Verdict
from ..clock import wall_s
from ..message import TaskMessage
from ..settle import Ending
from .admit import Refusal, admit
from .attempts import Attempts
from .limiter import Limiter
from .outcomes import Outcomes
from .parts import Parts
from .plan import RunPlan
from .rest import needs_rest, rest
from .suspects import judged

# What is revoked does not wait any longer.
_WAITS: Final = frozenset({Ending.NOT_DUE, Ending.UNKNOWN_TASK})


class Gate:
    """Asks every authority about one message."""

    def __init__(self, parts: Parts, outcomes: Outcomes, attempts: Attempts, limiter: Limiter) -> None:
        self._parts = parts
        self._limiter = limiter
        self._outcomes = outcomes
        self._attempts = attempts

    def stopped(self, delivery: Delivery, message: TaskMessage, plan: RunPlan | None) -> Outcome | None:
        """What becomes of a message that does not run now; None when it may.

        :param plan: None when no such task is registered; such a message never passes.
        :raises MalformedMessage: the headers, read in full, are not those of a task message.
        """
        parts = self._parts
        refusal = None
        if plan is None or message.eta_wall_s is not None or message.expires_wall_s is not None:
            refusal = self._refusal(message, plan)
        revoked = (refusal is None or refusal.ending in _WAITS) and parts.revoked(message)
        if refusal is not None and not revoked:
            return self._outcomes.refused(delivery, message, refusal)
        if delivery.suspect and plan is not None:
            # Before it is dropped as revoked: there may be word that it was ended because of that.
            known = plan
            ended = self._attempts.make(lambda: judged(parts, self._outcomes, delivery, message, known))
            if ended is not None:
                parts.uniqueness.ended(delivery, message, Ending.LOST, ended.verdict)
                return ended
        if revoked:
            return self._outcomes.refused(delivery, message, Refusal(Ending.REVOKED, detail="revoked"))
        if message.retries and parts.foreign_retries:
            if needs_rest(message, message.all_headers(parts.table)):
                return rest(delivery, message, wall_s())
        if plan is not None and plan.limited:
            return self._without_token(delivery, plan)
        return None

    def _refusal(self, message: TaskMessage, plan: RunPlan | None) -> Refusal | None:
        """What its own times, or its name, have against a message."""
        parts = self._parts
        return admit(
            wall_s(),
            known=plan is not None,
            task_name=message.task,
            eta_wall_s=message.eta_wall_s,
            expires_wall_s=message.expires_wall_s,
            headers=None if plan is not None else message.all_headers(parts.table),
            unknown_grace_s=parts.config.task_unknown_grace,
            unknown_retry_s=parts.config.task_unknown_retry_delay,
        )

    def stopped_by_key(
        self,
        delivery: Delivery,
        message: TaskMessage,
        plan: RunPlan,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Outcome | None:
        """The same for limits that depend on the arguments, which have been decoded by now."""
        keyed, kind = self._limiter.keyed, self._limiter.kind_of(plan)
        answer = self._attempts.make(lambda: (keyed.stopped(kind, delivery, message, args, kwargs),))
        return Outcome(delivery.tag, Verdict.REQUEUE) if answer is None else answer[0]

    def _without_token(self, delivery: Delivery, plan: RunPlan) -> Outcome | None:
        answer = self._attempts.make(lambda: (self._limiter.stopped(delivery, plan),))
        # Without an answer nobody knows whether it may run: the worker leaves, and it returns.
        return Outcome(delivery.tag, Verdict.REQUEUE) if answer is None else answer[0]
