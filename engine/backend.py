"""`app.backend`: stored results by id, under the names that Celery's backends have, on every store alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ..transports.url import redact
from . import states
from .clock import mono_s
from .exceptions import TaskRevokedError, TimeoutError
from .execution import Executed
from .follow_ups import call_errbacks
from .result_document import ResultDocument, rebuild_exception
from .stored_results import StoredResults

if TYPE_CHECKING:
    from .app import App

_CLEANED_AT_ONCE = 1000


class Backend:
    """What is stored about tasks, read and written by their ids.

    Workers store what tasks return by themselves: this is for code that looks after tasks from outside.
    With results disabled nothing is written, and reading raises `ImproperlyConfigured`.

    :param app: whose error callbacks are called.
    :param stored: the results of this process.
    :param config: under which they were opened.
    """

    READY_STATES: ClassVar[frozenset[str]] = states.READY_STATES
    UNREADY_STATES: ClassVar[frozenset[str]] = states.UNREADY_STATES
    EXCEPTION_STATES: ClassVar[frozenset[str]] = states.EXCEPTION_STATES
    TimeoutError: ClassVar[type[Exception]] = TimeoutError

    def __init__(self, app: App, stored: StoredResults, config: Any) -> None:
        self.app = app
        self._stored = stored
        self._config = config

    # -- reading ------------------------------------------------------------------------------

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """Everything that is stored about a task; state PENDING where nothing is.

        :param cache: accepted as in Celery; the store is asked each time.
        :returns: `status`, `result` (rebuilt, if it is an exception), `traceback`, `children`, `date_done`
            (ISO 8601), `task_id`, and what was stored beside.
        :raises ImproperlyConfigured: results are disabled.
        """
        return _meta(task_id, self._stored.read(task_id))

    def get_state(self, task_id: str) -> str:
        """The state; PENDING where nothing is stored."""
        return str(self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """What the task returned; the exception, if it failed; None where nothing is stored."""
        return self.get_task_meta(task_id)["result"]

    def get_traceback(self, task_id: str) -> str | None:
        """The traceback of a failure, as text."""
        text: str | None = self.get_task_meta(task_id)["traceback"]
        return text

    def get_children(self, task_id: str) -> Any:
        """The tasks that this one sent, as `result_from_tuple` reads them; None where nothing is stored."""
        return self.get_task_meta(task_id)["children"]

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """Wait for a task to end; what it raised is in the answer, not raised.

        :param timeout: seconds; None waits for ever.
        :param interval: seconds between calls of `on_interval`; the wait itself does not poll.
        :returns: as `get_task_meta`.
        :raises TimeoutError: it did not end in time.
        """
        end_mono_s = None if timeout is None else mono_s() + timeout
        step_s = max(interval, 0.001)
        while True:
            left_s = step_s if end_mono_s is None else min(step_s, end_mono_s - mono_s())
            document = self._stored.wait(task_id, max(0.0, left_s))
            if document is not None:
                return _meta(task_id, document)
            if on_interval is not None:
                on_interval()
            if end_mono_s is not None and mono_s() >= end_mono_s:
                raise TimeoutError(f"no result of {task_id} within {timeout:g} s")

    # -- writing ------------------------------------------------------------------------------

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_options: Any,
    ) -> Any:
        """Store a state of a task and its value. A stored SUCCESS stays.

        :param result: the value; for a failure the exception.
        :param traceback: as text; None takes that of the exception.
        :param request: says group, parent, children, and what `result_extended` stores.
        :returns: `result`.
        """
        if self._stored.enabled:
            self._stored.put(
                task_id,
                state,
                result,
                traceback=None if traceback is None else str(traceback),
                request=request,
            )
        return result

    def mark_as_started(self, task_id: str, **meta: Any) -> None:
        """Store STARTED.

        :param meta: what `AsyncResult.info` then is.
        """
        self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store what a task returned, unless its request says that nobody wants it."""
        if store_result and not getattr(request, "ignore_result", None):
            self.store_result(task_id, result, state, request=request)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store a failure, for the tasks that were to follow in the chain of `request`, too.

        :param call_errbacks: call the error callbacks of `request`.
        """
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
            for step in getattr(request, "chain", None) or ():
                step_id = (step.get("options") or {}).get("task_id")
                if step_id is not None:
                    self.store_result(step_id, exc, state, traceback=traceback)
        if call_errbacks and getattr(request, "errbacks", None):
            self._call_errbacks(request, Executed(state, exc))

    def _call_errbacks(self, request: Any, executed: Executed) -> None:
        lineage = {"parent_id": request.id, "root_id": request.root_id}
        call_errbacks(
            self.app,
            request,
            executed,
            lambda errback: errback.apply_async((request.id,), add_to_parent=False, **lineage),
        )

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> None:
        """Store that a task failed and runs again. It does not make it run."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store REVOKED. To have workers look for it, use `AsyncResult.revoke`."""
        if store_result:
            self.store_result(task_id, TaskRevokedError(reason), state, request=request)

    def forget(self, task_id: str) -> None:
        """Delete what is stored about a task."""
        self._stored.forget([task_id])

    # -- the store ----------------------------------------------------------------------------

    def as_uri(self, include_password: bool = False) -> str:
        """Where results are stored.

        :param include_password: show secrets that the URL has; they are masked otherwise.
        """
        url = str(self._config.result_backend or "disabled://")
        return url if include_password else redact(url)

    def cleanup(self) -> None:
        """Delete what has expired, as far as the store does not do so by itself."""
        if self._stored.enabled:
            while self._stored.expire(_CLEANED_AT_ONCE):
                continue

    def __repr__(self) -> str:
        return f"<Backend: {self.as_uri()}>"


def _meta(task_id: str, document: ResultDocument | None) -> dict[str, Any]:
    if document is None:
        nothing = dict.fromkeys(("result", "traceback", "children", "date_done"))
        return {"status": states.PENDING, **nothing, "task_id": task_id}
    value = document.result
    if document.status in states.EXCEPTION_STATES and value is not None:
        value = rebuild_exception(value, document.traceback)
    above = {"group_id": document.group_id, "parent_id": document.parent_id}
    return {
        **document.extended,
        "status": document.status,
        "result": value,
        "traceback": document.traceback,
        "children": document.children,
        "date_done": document.date_done,
        "task_id": task_id,
        **{key: known for key, known in above.items() if known is not None},
    }
