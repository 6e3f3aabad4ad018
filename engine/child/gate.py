"""Everything that may stand between a reserved message and its run, in order.

Nothing here decodes a body: what a message says about itself is in its headers.
"""

from __future__ import annotations

from ...transports.base import Delivery, Outcome
from ..clock import wall_s
from ..message import TaskMessage
from ..settle import Ending
from .admit import Refusal, admit
from .attempts import Attempts
from .outcomes import Outcomes
from .parts import Parts
from .plan import RunPlan
from .suspects import judged


class Gate:
    """Asks every authority about one message."""

    def __init__(self, parts: Parts, outcomes: Outcomes, attempts: Attempts) -> None:
        self._parts = parts
        self._outcomes = outcomes
        self._attempts = attempts

    def stopped(self, delivery: Delivery, message: TaskMessage, plan: RunPlan | None) -> Outcome | None:
        """What becomes of a message that does not run now; None when it may.

        :param plan: None when no such task is registered; such a message never passes.
        :raises MalformedMessage: the headers, read in full, are not those of a task message.
        """
        parts = self._parts
        refusal = admit(
            wall_s(),
            known=plan is not None,
            task_name=message.task,
            eta_wall_s=message.eta_wall_s,
            expires_wall_s=message.expires_wall_s,
            headers=None if plan is not None else message.all_headers(parts.table),
            unknown_grace_s=parts.config.task_unknown_grace,
            unknown_retry_s=parts.config.task_unknown_retry_delay,
        )
        if refusal is None and parts.revoked(message.id):
            refusal = Refusal(Ending.REVOKED, detail="revoked")
        if refusal is not None:
            return self._outcomes.refused(delivery, message, refusal)
        if delivery.suspect and plan is not None:
            known = plan
            return self._attempts.make(lambda: judged(parts, self._outcomes, delivery, message, known))
        return None
