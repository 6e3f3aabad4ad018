"""What is done when broker or store refuse the outcome of a task for good.

An outage is waited for; a result of 600 MB is refused for ever. Then the task has failed, and says so
where it can. A message whose consequences (a retry, a callback) cannot be sent becomes a dead letter:
nothing is dropped without a word, and nothing holds up the tasks beside it.

Nobody's code runs here: it serves the child, and the agent that settles for one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..serializers.registry import SerializerTable
from ..transports.base import Consumer, Delivery, Outcome, Outgoing, StoredResult, Verdict
from . import states
from .einfo import ExceptionInfo, safe_text
from .exceptions import BackendStoreError
from .execution import Executed
from .follow_ups import on_failure
from .message import MalformedMessage, TaskMessage, parse
from .message_chain import chain_within
from .options import options_of
from .request import context_of
from .result_writer import ResultWriter
from .unreached import Unreached

if TYPE_CHECKING:
    from .app import App

REASON_REFUSED = "refused"
"""`DeadLetter.reason` of a message whose outcome the broker would not take."""

_WHY_BYTES_MAX = 2000

_log = logging.getLogger("prefork.refusals")


def refusal_of(error: Exception) -> BackendStoreError:
    """The error of a task whose outcome was refused."""
    return BackendStoreError(f"what the task led to was refused: {safe_text(error, _WHY_BYTES_MAX)}")


def is_failure_stored(app: App, config: Any, message: TaskMessage) -> bool:
    """Whether anybody is told of a failure; a message's own wish wins over the task's (interop §8.11)."""
    task = app.tasks.get(message.task)
    options = None if task is None else options_of(task, config)
    if config.task_store_errors_even_if_ignored if options is None else options.store_errors_even_if_ignored:
        return True
    if message.ignore_result is not None:
        return not message.ignore_result
    return not (config.task_ignore_result if options is None else options.ignore_result)


def errbacks_of(
    app: App, table: SerializerTable, delivery: Delivery, message: TaskMessage, error: Exception, node: str
) -> tuple[Outgoing, ...]:
    """The error callbacks of a message whose task failed outside of a child's code. None is called here.

    :param node: name of the worker.
    """
    try:
        payload = message.payload(table)
    except MalformedMessage as problem:
        _log.warning("no error callback can be sent: %s", problem)
        return ()
    if not payload[2].errbacks:
        return ()
    request = context_of(
        message,
        payload,
        queue=delivery.queue,
        redelivered=delivery.redelivered,
        crashes=delivery.crashes,
        node=node,
    )
    executed = Executed(states.FAILURE, error, ExceptionInfo(error))
    return on_failure(app, request, executed, call=False)


class Refusals:
    """Makes what takes the place of refused outcomes. Used by the thread that settles.

    :param stored: results are stored at all.
    :param node: name of the worker.
    """

    def __init__(self, app: App, table: SerializerTable, *, stored: bool, node: str = "") -> None:
        self._app = app
        self._table = table
        self._results = ResultWriter(app.config, table, enabled=stored, node=node)
        self._unreached = Unreached(app, app.config, self._results)

    def instead(self, consumer: Consumer, outcome: Outcome, error: Exception) -> Iterator[Outcome]:
        """What to settle in the place of an outcome, each less likely to be refused than the one before.

        :param error: the refusal.
        :raises TransportError: the message cannot be read at present.
        """
        delivery = consumer.fetch(outcome.tag)
        if delivery is None:
            yield Outcome(tag=outcome.tag)  # it was taken back: answered as such
            return
        why = safe_text(error, _WHY_BYTES_MAX)
        message = self._parsed(delivery.document)
        named = f"{message.task}[{message.id}]" if message is not None else f"delivery {outcome.tag.hex()}"
        _log.error("%s: what it led to is refused for good: %s", named, why)
        failed = refusal_of(error)
        results: tuple[StoredResult, ...] = ()
        errbacks: tuple[Outgoing, ...] = ()
        if message is not None:
            if outcome.results or is_failure_stored(self._app, self._app.config, message):
                results = self._results.failure(failed, task_id=message.id, message=message, in_brief=True)
            results += self._rest_of_chain(message, failed, ignored=not results)
            errbacks = errbacks_of(self._app, self._table, delivery, message, failed, "")
        buried = Outcome(
            tag=outcome.tag,
            verdict=Verdict.DEAD,
            reason=outcome.reason or REASON_REFUSED,
            causes=(*outcome.causes, why),
            results=results,
        )
        if outcome.verdict is Verdict.ACK and not outcome.follow_ups and results:
            yield Outcome(tag=outcome.tag, results=results, follow_ups=errbacks)
        elif errbacks:
            yield Outcome(
                outcome.tag,
                Verdict.DEAD,
                reason=buried.reason,
                causes=buried.causes,
                follow_ups=errbacks,
                results=results,
            )
        yield buried
        yield Outcome(outcome.tag, Verdict.DEAD, reason=buried.reason, causes=(why,))

    def early(
        self,
        message: TaskMessage,
        error: Exception,
        refused: Sequence[StoredResult],
        *,
        unsent: bool = False,
    ) -> tuple[StoredResult, ...]:
        """The failure of a task whose message was acknowledged before its start.

        There is no message any more that could become a dead letter.

        :param refused: what would have been stored: of the task, and of what was to follow it.
        :param unsent: what follows the task was refused, and not only its results.
        """
        _log.error("%s: what it led to is refused for good: %s", message.id, safe_text(error, _WHY_BYTES_MAX))
        failed = refusal_of(error)
        results = self._results.failure(failed, task_id=message.id, message=message, in_brief=True)
        if unsent:
            return results + self._rest_of_chain(message, failed, ignored=not refused)
        others = (result for result in refused if result.key != message.id)
        return results + tuple(
            self._results.end(other.key, states.FAILURE, failed, reply_to=other.reply_to) for other in others
        )

    def _rest_of_chain(
        self, message: TaskMessage, error: Exception, *, ignored: bool
    ) -> tuple[StoredResult, ...]:
        if not self._unreached.told:
            return ()
        chain = chain_within(message.envelope, self._table)
        return self._unreached.after(chain, error, ignored=ignored, reply_to=message.reply_to)

    def _parsed(self, document: bytes) -> TaskMessage | None:
        try:
            return parse(document, self._table)
        except MalformedMessage as error:
            _log.warning("no result can be stored: %s", error)
            return None
