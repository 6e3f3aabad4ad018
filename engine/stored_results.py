"""The result store as an app sees it: documents in and out, by id."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..serializers import iso8601
from ..serializers.base import DecodeError, EncodeError, Serializer
from ..transports.base import Answers, ResultStore, StoredResult
from ..transports.result_state import state_of
from . import result_document, states
from .clock import mono_s, wall_s
from .einfo import traceback_text
from .exceptions import ImproperlyConfigured, TaskRevokedError
from .lifetimes import Lifetimes
from .result_document import ResultDocument
from .result_extended import extended_of
from .revocations import beacon
from .revoked_keys import task_digest

if TYPE_CHECKING:
    from .request import Context

NO_RESULTS = (
    "there is no result store: set result_backend (the embedded broker and memory:// keep results by "
    "themselves), or send with ignore_result=True and do not ask"
)

_log = logging.getLogger("prefork.results")

_WAITING = frozenset({None, states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})

LOOK_AGAIN_S = 0.1
"""How often a document is read again whose store cannot tell whether it is final."""


class StoredResults:
    """Reads and writes result documents.

    :param open_store: gives the store of this process; None when results are disabled.
    :param lifetimes: of what is written.
    :param extended: whether name, arguments, worker, retries and queue are stored where they are known.
    """

    def __init__(
        self,
        open_store: Callable[[], ResultStore | None],
        serializer: Serializer,
        lifetimes: Lifetimes,
        *,
        extended: bool = False,
    ) -> None:
        self._open = open_store
        self._serializer = serializer
        self._lifetimes = lifetimes
        self._extended = extended

    def _store(self) -> ResultStore:
        store = self._open()
        if store is None:
            raise ImproperlyConfigured(NO_RESULTS)
        return store

    @property
    def enabled(self) -> bool:
        """Whether results are stored at all."""
        return self._open() is not None

    def expire(self, limit: int) -> int:
        """Drop up to `limit` documents whose time is over; returns how many."""
        return self._store().expire(limit)

    def read(self, task_id: str) -> ResultDocument | None:
        """What is stored under an id; None for nothing.

        :raises ImproperlyConfigured: results are disabled.
        :raises MalformedResult: something else is stored there.
        """
        found = self._store().get([task_id])[0]
        return None if found is None else result_document.decode(found, self._serializer)

    def read_final(self, task_ids: Sequence[str]) -> dict[str, ResultDocument]:
        """The documents of those that have ended, read together.

        One that cannot be read is left out; whoever asks for it alone is told why.
        """
        known: dict[str, ResultDocument] = {}
        for task_id, found in zip(task_ids, self._store().get(task_ids)):
            if found is None:
                continue
            try:
                document = result_document.decode(found, self._serializer)
            except (DecodeError, result_document.MalformedResult):
                continue  # shown to whoever asks for this one alone
            if document.status in states.READY_STATES:
                known[task_id] = document
        return known

    def wait(self, task_id: str, timeout_s: float) -> ResultDocument | None:
        """Wait for the final document of an id; None when the time is over."""
        return self.wait_any([task_id], timeout_s).get(task_id)

    def wait_any(self, task_ids: Sequence[str], timeout_s: float) -> dict[str, ResultDocument]:
        """Wait until at least one of the ids has its final document.

        A store cannot see the state in every form of a document (a compressed one hides it), and then
        takes it for final; such a one is looked at again and again.
        """
        end_mono_s = mono_s() + timeout_s
        while True:
            found = self._store().wait(task_ids, max(0.0, end_mono_s - mono_s()))
            read = {key: result_document.decode(data, self._serializer) for key, data in found.items()}
            final = {
                key: document for key, document in read.items() if document.status in states.READY_STATES
            }
            left_s = end_mono_s - mono_s()
            if final or not read or left_s <= 0.0:
                return final
            time.sleep(min(LOOK_AGAIN_S, left_s))

    def forget(self, task_ids: Sequence[str]) -> None:
        """Delete what is stored under these ids."""
        self._store().forget(task_ids)

    def store_state(
        self, task_id: str | None, state: str, meta: Any, *, request: Context, options: Any
    ) -> None:
        """Store a state, unless results are disabled or ignored.

        :raises InvalidTaskError: no task runs here and no id was given.
        """
        if task_id is None:
            raise ImproperlyConfigured("update_state() outside of a running task needs task_id=")
        ignored = request.ignore_result if request.ignore_result is not None else options.ignore_result
        if ignored or self._open() is None:
            return
        in_worker = request.message is not None and not request.is_eager
        if in_worker and task_id == request.id and self._ended_since(request):
            _log.warning(
                "%s[%s]: state %s comes from an attempt that was overtaken", request.task, task_id, state
            )
            return
        # Of another task, or of one that never ran, nothing is known here.
        known = task_id == request.id and request.task is not None
        self._write(task_id, state, meta, request=request, about=request if known else None)

    def _ended_since(self, request: Context) -> bool:
        """Whether the running task has a final document that is younger than this attempt.

        A worker that was stopped for longer than its lease may still run what another has ended meanwhile.
        What it settles is refused; what it says on the way would stand for ever.
        """
        store = self._store()
        found = None if isinstance(store, Answers) else store.get([str(request.id)])[0]
        if found is None or request.started_wall_s is None:
            return False
        try:
            known = result_document.decode(found, self._serializer)
            ended_wall_s = iso8601.parse(known.date_done).timestamp() if known.date_done else 0.0
        except (DecodeError, result_document.MalformedResult, ValueError):
            return False  # somebody else's document says nothing about the task
        return known.status in states.READY_STATES and ended_wall_s > request.started_wall_s

    def put(
        self,
        task_id: str,
        state: str,
        value: Any,
        *,
        traceback: str | None = None,
        request: Context | None = None,
    ) -> None:
        """Store a state of a task, and the tasks that it has sent.

        :param traceback: None takes that of an exception.
        :param request: says which tasks it belongs to, and what `result_extended` stores.
        :raises ImproperlyConfigured: results are disabled.
        """
        self._write(task_id, state, value, request=request, about=request, text=traceback)

    def _write(
        self,
        task_id: str,
        state: str,
        value: Any,
        *,
        request: Context | None = None,
        about: Context | None = None,
        text: str | None = None,
    ) -> None:
        """Store a document.

        :param request: says what the task belongs to, and who waits for an answer.
        :param about: the request of this very task.
        """
        if text is None and isinstance(value, BaseException):
            text = traceback_text(value, value.__traceback__)
        encode = partial(
            result_document.encode,
            state,
            value,
            task_id=task_id,
            serializer=self._serializer,
            traceback=text,
            children=[child.as_tuple() for child in getattr(about, "children", None) or ()],
            group_id=None if request is None else request.group,
            parent_id=None if request is None else request.parent_id,
            date_done_wall_s=wall_s(),
        )
        if about is None or not self._extended:
            document = encode()
        else:
            try:
                document = encode(extended=extended_of(about))
            except EncodeError:  # of the value as well, if it is that which has no form
                document = encode(extended=extended_of(about, as_text=True))
        final = state in states.READY_STATES
        reply_to = "" if request is None else request.reply_to or ""
        self._store().store([StoredResult(task_id, document, self._lifetimes.of(state), final, reply_to)])

    def save_group(self, group_id: str, value: Any) -> None:
        """Store the tuple of a group (interop §8.4)."""
        document = self._serializer.dumps({"result": value})
        self._store().save_group(group_id, document, self._lifetimes.others_s)

    def read_group(self, group_id: str) -> Any:
        """The tuple of a group, or None."""
        found = self._store().get_group(group_id)
        return None if found is None else self._serializer.loads(found)["result"]

    def forget_group(self, group_id: str) -> None:
        """Delete the tuple of a group."""
        self._store().forget_group(group_id)

    def revoke(self, task_ids: Sequence[str], *, waiting_only: bool = False, announce: bool = True) -> None:
        """Store REVOKED for tasks that have not ended.

        It holds for `result_expires`.

        :param waiting_only: not for those that are known to run.
        :param announce: have workers look for it, from `revocations.LOOK_EVERY_S` after this call on; not
            needed where they are told in another way.
        :raises ImproperlyConfigured: results are disabled, or messages.
        """
        store = self._store()
        if isinstance(store, Answers):
            raise ImproperlyConfigured(
                "revoking needs results that workers can look up, and those of rpc:// are messages: "
                "set result_backend to a store"
            )
        for task_id, found in zip(task_ids, store.get(list(task_ids))):
            status = None if found is None else self._status(found)
            if status in states.READY_STATES or (waiting_only and status not in _WAITING):
                continue
            self._write(task_id, states.REVOKED, TaskRevokedError("revoked"))
        if announce:
            store.store([beacon(self._serializer, self._lifetimes.others_s)])

    def abort(self, task_id: str) -> None:
        """Store that a task was asked to stop.

        :raises ImproperlyConfigured: results are disabled, or messages.
        """
        store = self._inspectable()
        self._write(task_id, states.ABORTED, None)
        # A state that the task stores itself from now on would hide it.
        mark = result_document.encode(states.ABORTED, None, task_id=task_id, serializer=self._serializer)
        store.store([StoredResult(_abort_mark(task_id), mark, self._lifetimes.others_s, final=False)])

    def is_aborted(self, task_id: str) -> bool:
        """Whether a task was asked to stop and has not ended.

        :raises ImproperlyConfigured: results are disabled, or messages.
        """
        found, mark = self._inspectable().get([task_id, _abort_mark(task_id)])
        status = None if found is None else self._status(found)
        return status not in states.READY_STATES and (mark is not None or status == states.ABORTED)

    def _inspectable(self) -> ResultStore:
        store = self._store()
        if isinstance(store, Answers):
            raise ImproperlyConfigured(
                "aborting needs results that workers can look up, and those of rpc:// are messages: "
                "set result_backend to a store"
            )
        return store

    def _status(self, found: bytes) -> str | None:
        try:
            return result_document.decode(found, self._serializer).status
        except (DecodeError, result_document.MalformedResult):
            return state_of(found)  # as of a worker with another `result_serializer`


def _abort_mark(task_id: str) -> str:
    """The key that says that a task was asked to stop; as short for every id."""
    return f"prefork-aborted-{task_digest(task_id).hex()}"
