"""What is stored for the rest of a chain, once one of its tasks has ended without success in this child."""

from __future__ import annotations

from ...transports.base import Delivery, StoredResult
from .. import states
from ..duplicates import Unsent
from ..execution import Executed
from ..message import TaskMessage
from ..message_chain import chain_of, chain_within, is_harmless
from ..request import Context
from .parts import Parts
from .plan import RunPlan


def _is_ignored(plan: RunPlan, message: TaskMessage) -> bool:
    """Whether nobody is told of a result; a message's own wish wins over the task's (interop §8.11)."""
    return plan.ignore_result if message.ignore_result is None else message.ignore_result


class ChainEnds:
    """Makes the results of tasks that are not reached, for one child."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def of_message(
        self, delivery: Delivery, message: TaskMessage | None, error: Exception, state: str = states.FAILURE
    ) -> tuple[StoredResult, ...]:
        """After a message whose task does not run.

        :param message: None where it cannot be read as one.
        :param state: of the result of the message's own task.
        """
        unreached = self._parts.unreached
        if not unreached.told:
            return ()
        if delivery.suspect and (message is None or not is_harmless(message)):
            return ()  # to read it may be what kills
        if message is None:
            return unreached.after(chain_of(delivery.document, self._parts.table), error, state)
        chain = chain_within(message.envelope, self._parts.table)
        plan = self._parts.plan(message.task)
        ignored = bool(message.ignore_result) if plan is None else _is_ignored(plan, message)
        return unreached.after(chain, error, state, ignored=ignored, reply_to=message.reply_to)

    def of_unsent(self, unsent: tuple[Unsent, ...]) -> tuple[StoredResult, ...]:
        """Of what should follow a task, and is not as unique as it is to be; the log says so."""
        for one in unsent:
            one.warn()
        return tuple(result for one in unsent for result in one.results(self._parts.unreached))

    def of_execution(
        self, plan: RunPlan, message: TaskMessage, request: Context, executed: Executed, state: str
    ) -> tuple[StoredResult, ...]:
        """After a task that ran.

        :param state: of its result.
        """
        return self._parts.unreached.after(
            request.chain or (),
            executed.value,
            state,
            einfo=executed.einfo,
            ignored=_is_ignored(plan, message),
            reply_to=message.reply_to,
        )
