"""The failures of tasks that were ended from outside: their results, and their error callbacks.

The child that ran such a task is dead, so the agent says what became of it, to receivers of signals as
well. It runs no task and no hook: an error callback is sent, whatever it takes, and `Task.on_failure` is
not called.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from ...transports.base import DeadLetter, Delivery, Outgoing, StoredResult
from ...transports.errors import TransportError
from .. import signals, states
from ..clock import mono_s
from ..einfo import ExceptionInfo
from ..exceptions import WorkerLostError
from ..execution import send_failure
from ..loaded_app import Loaded
from ..message import Embed, MalformedMessage, TaskMessage, parse
from ..message_chain import chain_within
from ..received import ReceivedRequest
from ..refusals import errbacks_of, is_failure_stored
from ..request import Context, context_of
from ..result_writer import ResultWriter
from ..scoreboard import Policy, Texts
from ..settling import is_permanent
from ..storage import Storage
from ..unique_locks import UniqueLocks, mark_of_message
from ..unreached import Unreached

# What neither store nor broker takes for so long is given up, the oldest first.
_KEPT_MAX: Final = 10_000
# Receivers may be slow, and there may be thousands of dead letters: the lease comes in between.
_ANNOUNCE_S: Final = 0.1

_T = TypeVar("_T")


class Failures:
    """Makes failures, and keeps what cannot be stored or sent yet. Used by the agent's loop only."""

    def __init__(self, loaded: Loaded, storage: Storage, log: logging.Logger) -> None:
        self._loaded = loaded
        self._storage = storage
        self._log = log
        self._results = ResultWriter(
            loaded.config, storage.table, enabled=storage.store is not None, node=loaded.node
        )
        self._unreached = Unreached(loaded.app, loaded.config, self._results)
        self._locks = UniqueLocks(storage.transport)
        self._unstored: list[StoredResult] = []
        self._unsent: list[Outgoing] = []
        self._unannounced: deque[Callable[[], None]] = deque(maxlen=_KEPT_MAX)
        self._away: set[str] = set()  # what nobody took at the last attempt

    def of_running(
        self,
        task_id: str,
        delivery: Delivery | None,
        bits: int,
        error: Exception,
        state: str = states.FAILURE,
    ) -> tuple[tuple[StoredResult, ...], tuple[Outgoing, ...]]:
        """Results and error callbacks of an execution that was ended from outside.

        :param delivery: its message; None when it was acknowledged before its start. Then nobody knows
            its error callbacks any more.
        :param bits: `scoreboard.Policy` of the execution.
        :param state: of the result. Only a failure has callbacks.
        """
        message = None if delivery is None else self._parsed(delivery.document)
        if message is not None:
            self._free_lock(message)
        results: tuple[StoredResult, ...] = ()
        if bits & Policy.STORE_ERRORS or not bits & Policy.IGNORE_RESULT:
            known_id = task_id if message is None else message.id
            results = self._results.failure(error, task_id=known_id, message=message, state=state)
        if message is not None:
            results += self._rest_of_chain(message, error, state, bool(bits & Policy.IGNORE_RESULT))
        if delivery is None or message is None or state != states.FAILURE:
            return results, ()
        return results, self._errbacks(delivery, message, error)

    def announce_terminated(self, texts: Texts, delivery: Delivery | None, signum: int) -> None:
        """Have `announce_some` send ``task_revoked`` for an execution that was ended on request.

        :param delivery: its message; None when nobody has it any more, and only id and name are known.
        """
        if signals.task_revoked.receivers:
            self._unannounced.append(partial(self._tell_terminated, texts, delivery, signum))

    def _tell_terminated(self, texts: Texts, delivery: Delivery | None, signum: int) -> None:
        request = self._request(texts.task_id, texts.task_name, delivery)
        task = self._loaded.app.tasks.get(texts.task_name)
        about = ReceivedRequest(request, task, self._loaded.app, self._storage.table)
        signals.task_revoked.send(task, request=about, terminated=True, signum=signum, expired=False)

    def announce_lost(
        self, task_id: str, task_name: str, delivery: Delivery | None, error: Exception
    ) -> None:
        """Have `announce_some` send ``task_failure`` for a task that none of its processes can speak for.

        :param delivery: as in `announce_terminated`.
        """
        if signals.task_failure.receivers:
            self._unannounced.append(partial(self._tell_lost, task_id, task_name, delivery, error))

    def _tell_lost(self, task_id: str, task_name: str, delivery: Delivery | None, error: Exception) -> None:
        request = self._request(task_id, task_name, delivery)
        task = self._loaded.app.tasks.get(str(request.task))
        send_failure(task, request, error, ExceptionInfo(error))

    def _request(self, task_id: str, task_name: str, delivery: Delivery | None) -> Context:
        """The request of a task that was ended, as far as it is known."""
        message = None if delivery is None else self._parsed(delivery.document)
        if delivery is None or message is None:
            return Context(id=task_id, task=task_name, args=[], kwargs={}, hostname=self._loaded.node)
        try:
            payload = message.payload(self._storage.table)
        except MalformedMessage:
            payload = ([], {}, Embed())  # it was readable when it began
        return context_of(
            message,
            payload,
            queue=delivery.queue,
            redelivered=delivery.redelivered,
            crashes=delivery.crashes,
            node=self._loaded.node,
        )

    def of_dead_letter(self, letter: DeadLetter) -> None:
        """Say, store and send what follows from a message that nobody will run again.

        Receivers of signals are told of it by `announce_some`.
        """
        causes = "; ".join(letter.causes) or letter.reason
        self._log.error(
            "dead letter %s: queue %s, %d crashes: %s", letter.key, letter.queue, letter.crashes, causes
        )
        message = self._parsed(letter.document)
        if message is None:
            return
        self._free_lock(message)
        error = WorkerLostError(f"dead-lettered after {letter.crashes} crashes: {causes}")
        stored = is_failure_stored(self._loaded.app, self._loaded.config, message)
        if stored:
            self.keep(self._results.failure(error, task_id=message.id, message=message), ())
        # Only now: its arguments may be what killed those processes.
        died = Delivery(b"", letter.queue, letter.document, crashes=letter.crashes, redelivered=True)
        rest = self._rest_of_chain(message, error, states.FAILURE, not stored)
        self.keep(rest, self._errbacks(died, message, error))
        self.announce_lost(message.id, message.task, died, error)

    def announce_some(self) -> bool:
        """Tell receivers of signals, for a moment; True if some are left.

        In a turn of its own: a receiver that keeps the agent for so long that it is replaced keeps it from
        answering the supervisor else, who would ask the next agent, and have it tell the same again.
        """
        end_mono_s = mono_s() + _ANNOUNCE_S
        while self._unannounced:
            self._unannounced.popleft()()
            if mono_s() >= end_mono_s:
                break
        return bool(self._unannounced)

    def keep(self, results: Sequence[StoredResult], follow_ups: Sequence[Outgoing]) -> None:
        """Store and send for a message that is gone from the broker: nobody else will."""
        self._unstored += results
        self._unsent += follow_ups
        del self._unstored[:-_KEPT_MAX], self._unsent[:-_KEPT_MAX]
        if not self._away:
            # Else the next `retry` is soon enough: each attempt may wait for a silent server, and there
            # may be thousands of dead letters.
            self.retry()

    def retry(self) -> None:
        """Store and send what could not be before."""
        store = self._storage.store
        if store is None:
            self._unstored.clear()
        else:
            self._hand_over("results of lost tasks", self._unstored, store.store)
        self._hand_over("error callbacks", self._unsent, self._storage.transport.send)

    def _hand_over(self, what: str, waiting: list[_T], take: Callable[[Sequence[_T]], None]) -> None:
        """Have taken what waits; what is refused for good is given up. Failures are said once in a row."""
        if not waiting:
            return
        try:
            take(waiting)
        except (TransportError, ValueError) as error:
            if not is_permanent(error):
                if what not in self._away:
                    self._log.error("%d %s wait: %s", len(waiting), what, error)
                self._away.add(what)
                return
            if len(waiting) > 1:
                self._one_by_one(what, waiting, take)
                return
            self._log.error("%s: one is given up: %s", what, error)
        waiting.clear()
        if what in self._away:
            self._away.discard(what)
            self._log.warning("%s are taken again", what)

    def _one_by_one(self, what: str, waiting: list[_T], take: Callable[[Sequence[_T]], None]) -> None:
        every, waiting[:] = list(waiting), []
        for index, one in enumerate(every):
            alone = [one]
            self._hand_over(what, alone, take)
            if alone:
                waiting += every[index:]
                return

    def _rest_of_chain(
        self, message: TaskMessage, error: Exception, state: str, ignored: bool
    ) -> tuple[StoredResult, ...]:
        """The results of what was to follow."""
        if not self._unreached.told:
            return ()
        chain = chain_within(message.envelope, self._storage.table)
        return self._unreached.after(chain, error, state, ignored=ignored, reply_to=message.reply_to)

    def _errbacks(self, delivery: Delivery, message: TaskMessage, error: Exception) -> tuple[Outgoing, ...]:
        loaded = self._loaded
        return errbacks_of(loaded.app, self._storage.table, delivery, message, error, loaded.node)

    def _free_lock(self, message: TaskMessage) -> None:
        """A unique task does not run again: let the next one be sent."""
        mark = mark_of_message(message)
        if mark is not None:
            self._locks.free(mark, message.id)

    def _parsed(self, document: bytes) -> TaskMessage | None:
        try:
            return parse(document, self._storage.table)
        except MalformedMessage as error:
            self._log.warning("no result can be stored: %s", error)
            return None
