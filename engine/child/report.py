"""The log lines and counters of one child."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ..einfo import bounded, safe_text
from ..exceptions import Reject, Retry
from ..execution import Executed
from ..message import TaskMessage
from ..scoreboard import C_FAILED, C_RETRIED, C_SUCCEEDED
from ..settle import Ending
from .plan import RunPlan

if TYPE_CHECKING:
    from .parts import Parts

_log = logging.getLogger("celery.app.trace")

_SUCCESS: Final = Ending.SUCCESS
_REJECTED = "Task %s[%s] rejected: %s"
_REQUEUED = "Task %s[%s] rejected, back to its queue: %s"
_FAILURES = (Ending.FAILURE, Ending.SOFT_LIMIT, Ending.HARD_LIMIT, Ending.REJECT)


class Reporter:
    """Counts executions on the scoreboard, and says what became of them."""

    def __init__(self, parts: Parts) -> None:
        self._words = parts.slot.words

    def ended(
        self, plan: RunPlan, message: TaskMessage, executed: Executed, ending: Ending, runtime_ns: int
    ) -> None:
        """Count one execution and log it, in the words that log parsers know (parity §17)."""
        if ending is _SUCCESS:
            self._words[C_SUCCEEDED] += 1
            if _log.isEnabledFor(logging.INFO):
                shown = "" if executed.value is None else f": {safe_text(executed.value, 128)}"
                _log.info("Task %s[%s] succeeded in %.6fs%s", plan.name, message.id, runtime_ns / 1e9, shown)
        elif ending is Ending.RETRY:
            self._words[C_RETRIED] += 1
            _log.info("Task %s[%s] retry: %s", plan.name, message.id, _retry_text(executed))
        elif ending in _FAILURES:
            self._words[C_FAILED] += 1
            self._failed(plan, message, executed)
        elif isinstance(executed.value, Reject):
            _log.warning(_REQUEUED, plan.name, message.id, safe_text(executed.value.reason, 512))
        else:
            _log.info("Task %s[%s] %s", plan.name, message.id, ending.value)

    def _failed(self, plan: RunPlan, message: TaskMessage, executed: Executed) -> None:
        if isinstance(executed.value, Reject):
            # A decision of the task's, of which it has said the reason: no error, and no traceback.
            _log.warning(_REJECTED, plan.name, message.id, safe_text(executed.value.reason, 512))
            return
        error = safe_text(executed.value, 2048)
        if plan.throws and isinstance(executed.value, plan.throws):
            _log.info("Task %s[%s] raised expected: %s", plan.name, message.id, error)
            return
        trace = executed.einfo.traceback if executed.einfo is not None else ""
        _log.error("Task %s[%s] raised unexpected: %s\n%s", plan.name, message.id, error, trace)


def _retry_text(executed: Executed) -> str:
    """When the task runs again, and why."""
    decision = None if executed.einfo is None else executed.einfo.exception
    if isinstance(decision, Retry):
        try:
            return bounded(str(decision), 512)
        except Exception as error:
            return f"Retry without a text: {safe_text(error, 512)}"
    return safe_text(executed.value, 512)
