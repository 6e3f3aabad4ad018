"""`AsyncResult`: the result of a task, seen from outside the worker, by its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..serializers import iso8601
from . import revoking, states
from .ancestry import Ancestry, ancestors
from .awaiting import AwaitsOne
from .clock import mono_s
from .exceptions import TimeoutError
from .join_guard import assert_may_join
from .local import get_current_app
from .progress_report import Progress, progress_of
from .result_document import ResultDocument, rebuild_exception

if TYPE_CHECKING:
    from .app import App
    from .backend import Backend

R = TypeVar("R")

INTERVAL_MAX_S = 3600.0
"""How long one wait lasts at most, so that `on_interval` and signals get their turn."""


class AsyncResult(AwaitsOne[R], Generic[R]):
    """The result of a task, by its id; works in any process that knows the result store.

    :param id: the task's id.
    :param app: whose result store; None takes the current app.
    :param task_name: what was sent, where that is known.
    :param parent: the result of the task before it in a chain.
    """

    __slots__ = ("__weakref__", "_app", "_document", "_name", "id", "ignored", "parent")

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: App | None = None,
        parent: Any = None,
        *,
        ignored: bool = False,
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult requires an id, not None")
        self.id = id
        self._app = app
        self._name = task_name
        self.parent = parent
        self.ignored = ignored
        # The final document, once it was seen: it never changes any more.
        self._document: ResultDocument | None = None

    # -- the document -------------------------------------------------------------------------

    @property
    def app(self) -> App:
        """The app whose result store is asked."""
        return self._app if self._app is not None else get_current_app()

    @property
    def backend(self) -> Backend:
        """Stored results, by the ids of tasks."""
        return self.app.backend

    @property
    def task_id(self) -> str:
        """The same as `id`."""
        return self.id

    def _read(self) -> ResultDocument | None:
        if self._document is not None:
            return self._document
        document = self.app.client.stored.read(self.id)
        if document is not None and document.status in states.READY_STATES:
            self._document = document
        return document

    @property
    def unknown(self) -> bool:
        """Whether nothing final has been seen of it here, so that the store has to be asked."""
        return self._document is None and not self.ignored

    def learn(self, document: ResultDocument) -> None:
        """Take a final document that was read together with others."""
        self._document = document

    def _field(self, name: str) -> Any:
        document = self._read()
        return None if document is None else document.extended.get(name)

    @property
    def state(self) -> str:
        """The task's state; PENDING when nothing is known of it."""
        document = self._read()
        return states.PENDING if document is None else document.status

    status = state

    @property
    def result(self) -> Any:
        """The return value; the exception if it failed; the meta of a state of one's own."""
        return _value_of(self._read())

    info = result

    @property
    def progress(self) -> Progress | None:
        """How far the task said it has come (`Task.progress`), while it runs; else None."""
        document = self._read()
        return None if document is None else progress_of(document.status, document.result)

    @property
    def traceback(self) -> str | None:
        """The worker's traceback, as text, if the task failed."""
        document = self._read()
        return None if document is None else document.traceback

    @property
    def date_done(self) -> datetime | None:
        """When the task ended."""
        document = self._read()
        if document is None or document.date_done is None:
            return None
        try:
            return iso8601.parse(document.date_done)
        except ValueError:
            return None  # a document of somebody else's, with a text that is no time

    @property
    def children(self) -> list[Any] | None:
        """Results of the tasks that this one sent."""
        document = self._read()
        if document is None or not isinstance(document.children, list):
            return None
        return [result_from_tuple(child, self._app) for child in document.children]

    @property
    def name(self) -> str | None:
        """Name of the task: as sent from here, else as stored with `result_extended`."""
        return self._name if self._name is not None else self._field("name")

    @property
    def args(self) -> Any:
        """Positional arguments; stored only with `result_extended`. Likewise the next four."""
        return self._field("args")

    @property
    def kwargs(self) -> Any:
        """Keyword arguments."""
        return self._field("kwargs")

    @property
    def worker(self) -> str | None:
        """Node name of the worker."""
        return cast("str | None", self._field("worker"))

    @property
    def retries(self) -> int | None:
        """Number of the attempt."""
        return cast("int | None", self._field("retries"))

    @property
    def queue(self) -> str | None:
        """The queue it was taken from."""
        return cast("str | None", self._field("queue"))

    # -- questions ----------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether it returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether it raised."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether anything is stored under this id."""
        return self._read() is not None

    # -- waiting ------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: frozenset[str] = states.EXCEPTION_STATES,
        PROPAGATE_STATES: frozenset[str] = states.PROPAGATE_STATES,
    ) -> R:
        """Wait for the task to end and return what it returned.

        :param timeout: seconds; None waits for ever.
        :param propagate: raise what the task raised; False returns the exception.
        :param interval: seconds between calls of `on_interval`; the wait itself does not poll.
        :param callback: called with (id, value) at the end.
        :param on_message: called with the final document as a map.
        :raises TimeoutError: it did not end in time.
        :raises RuntimeError: called inside a task, see `allow_join_result`.
        """
        if self.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_may_join()
        above = None
        if propagate and follow_parents and self.parent is not None:
            for node in ancestors(self):
                node.maybe_throw(propagate=True)
            above = Ancestry(self, self.app.client.stored)
        document = self._wait(timeout, interval, on_interval, above)
        if on_message is not None:
            on_message({"task_id": self.id, "status": document.status, "result": document.result})
        return cast(R, self.maybe_throw(propagate=propagate, callback=callback))

    wait = get

    def _wait(
        self,
        timeout: float | None,
        interval: float,
        on_interval: Callable[[], Any] | None,
        above: Ancestry | None,
    ) -> ResultDocument:
        deadline_mono_s = None if timeout is None else mono_s() + timeout
        step_s = max(interval, 0.001) if on_interval is not None else INTERVAL_MAX_S
        while True:
            left_s = step_s if deadline_mono_s is None else min(step_s, deadline_mono_s - mono_s())
            if above is not None and on_interval is None:
                left_s = above.step_s(left_s)
            document = self._document or self.app.client.stored.wait(self.id, max(0.0, left_s))
            if document is not None:
                self._document = document
                return document
            if above is not None:
                above.look()
            if on_interval is not None:
                on_interval()
            if deadline_mono_s is not None and mono_s() >= deadline_mono_s:
                raise TimeoutError(f"no result of {self._name or 'task'}[{self.id}] within {timeout:g} s")

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise what the task raised, if it failed; else its value so far."""
        # One look for both: what ends between two would be known from the second, and never be raised.
        document = self._read()
        value = _value_of(document)
        if document is not None and document.status in states.PROPAGATE_STATES and propagate:
            raise value if isinstance(value, Exception) else rebuild_exception(value, document.traceback)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, *_args: Any, **_kwargs: Any) -> Any:
        """The same as `maybe_throw`."""
        return self.maybe_throw()

    # -- acting -------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete what is stored, here and for the parents."""
        self._document = None
        self.app.client.stored.forget([self.id])
        if self.parent is not None:
            self.parent.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Keep a task that has not started from running. It is REVOKED at once where that is certain.

        What runs already goes on, and ends as if nothing had been, unless `terminate` is given.

        :param terminate: end it if it runs, with its sub-processes.
        :param signal: with what; None is SIGTERM. SIGUSR1 raises `SoftTimeLimitExceeded` in it instead.
        :param wait: wait for the answers of workers, and return them.
        :param timeout: seconds to wait for them; None is one.
        :raises ImproperlyConfigured: nobody would remember it, or nobody can be told to end a task.
        """
        return revoking.revoke(
            self.app, [self.id], terminate=terminate, signal=signal, wait=wait, timeout=timeout
        )

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any] | Iterable[str],
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Keep every task from running that is stamped with one of these values, be it this one or not.

        No result is stored until a worker meets such a task: nobody knows their ids.

        :param headers: a value, or a list of them, by header; or texts ``header=value``.
        :param terminate: end those that run, too; the others as in `revoke`.
        :raises ValueError: there is no such signal, or these are no stamped headers.
        :raises ImproperlyConfigured: as in `revoke`.
        """
        return revoking.revoke_by_stamped_headers(
            self.app, headers, terminate=terminate, signal=signal, wait=wait, timeout=timeout
        )

    # -- forms --------------------------------------------------------------------------------

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), None)``, as it travels in messages and documents."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """The ids of this result and its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def get_leaf(self) -> Any:
        """The value of the last task that this one led to."""
        value = self.get()
        for child in self.children or ():
            value = child.get_leaf()
        return value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(self.id == other.id)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, None, self._name, None, self.parent)


def _value_of(document: ResultDocument | None) -> Any:
    """What a document says: what was returned or raised, or stored with a state of one's own."""
    if document is None:
        return None
    if document.status in states.EXCEPTION_STATES:
        return None if document.result is None else rebuild_exception(document.result, document.traceback)
    return document.result


def result_from_tuple(value: Any, app: App | None = None) -> Any:
    """Read ``[[id, parent], children]`` (interop §8.4); results are returned as they are.

    :raises ValueError: it is not such a tuple.
    """
    if isinstance(value, AsyncResult):
        return value
    if hasattr(value, "as_tuple"):
        return value
    try:
        node, children = value
        id_, parent = node if isinstance(node, (list, tuple)) else (node, None)
    except (TypeError, ValueError):
        raise ValueError(f"not a result tuple: {value!r:.200}") from None
    above = result_from_tuple(parent, app) if parent else None
    if children is None:
        return AsyncResult(id_, app=app, parent=above)
    target = app if app is not None else get_current_app()
    return target.GroupResult(id_, [result_from_tuple(child, app) for child in children], parent=above)
