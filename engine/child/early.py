"""Messages that are acknowledged before their start, and so run at most once."""

from __future__ import annotations

import logging

from ...transports.base import Delivery, Flushes, Outcome
from ...transports.errors import BrokerUnavailable
from ..clock import mono_ns
from ..message import TaskMessage
from ..request import Context
from ..scoreboard import C_EXECUTIONS, C_HARD_NS, C_RUNNING, C_SOFT_NS, C_START_NS
from .attempts import Attempts
from .outcomes import Outcomes
from .parts import Parts
from .plan import RunPlan

_log = logging.getLogger("prefork.child")


class EarlyAcknowledgement:
    """Acknowledges just before the start, and publishes what came of it afterwards."""

    def __init__(self, parts: Parts, outcomes: Outcomes, attempts: Attempts) -> None:
        self._parts = parts
        self._words = parts.slot.words
        self._outcomes = outcomes
        self._attempts = attempts

    def acknowledge(self, delivery: Delivery, message: TaskMessage, plan: RunPlan, request: Context) -> bool:
        """Acknowledge just before the start; False: it was not ours any more, or may not have been.

        It counts as running from before the acknowledgement, so that a process that dies between
        the two leaves a result that says so.
        """
        words, consumer = self._words, self._parts.consumer
        words[C_SOFT_NS] = words[C_HARD_NS] = 0
        words[C_START_NS] = mono_ns()
        words[C_RUNNING] = words[C_EXECUTIONS]
        doubts: list[Exception] = []

        def settle() -> bool:
            try:
                settled = consumer.settle([Outcome(tag=delivery.tag)])[0]
                if settled and isinstance(consumer, Flushes):
                    consumer.flush()
                return settled
            except BrokerUnavailable as error:
                if error.outcome_unknown:
                    doubts.append(error)
                raise

        if self._attempts.make(settle):
            return True
        words[C_RUNNING] = 0
        if doubts:
            self.publish(self._outcomes.unanswered(delivery, message, plan, request, doubts[0]), message)
            return False
        self._parts.uniqueness.taken_back(message)
        _log.info("delivery %s was taken back before it was acknowledged", delivery.tag.hex())
        return False

    def publish(self, outcome: Outcome, message: TaskMessage) -> None:
        """Send and store what came of it."""
        parts = self._parts
        results = self._attempts.make(lambda: parts.send_early(outcome, message))
        if results:
            self._attempts.make(lambda: parts.store_early(results, message))
        parts.uniqueness.settled([outcome], [True])
