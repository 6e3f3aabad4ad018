"""Sending many tasks with few round trips.

What is sent within a bulk is encoded at once, collected, and handed to the broker by the hundred. An
argument that has no form is an error of its own call; the others go. When the broker fails, it is
said which tasks it took, which it did not, and which nobody knows about.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from ..transports.base import Outgoing
from ..transports.errors import BrokerUnavailable, TransportError
from . import states
from .canvas import Signature
from .eager_result import EagerResult
from .exceptions import BulkSendError
from .message import fresh_id
from .result_sets import ResultSet

if TYPE_CHECKING:
    from .app import App
    from .client import Client
    from .unique_claims import Claim

R = TypeVar("R")

CHUNK_TASKS = 500
"""How many tasks are handed to the broker at a time, unless the caller says otherwise."""

CHUNK_BYTES = 4 * 1024 * 1024
"""A chunk of large messages is handed over before it is full."""


_PARTS = 4


class _Taken(NamedTuple):
    """What one call published.

    :param position: of the call in the bulk, from 0.
    """

    position: int
    task_id: str
    messages: Sequence[Outgoing]
    claim: Claim | None


class _Failed(NamedTuple):
    task: _Taken
    error: TransportError
    unknown: bool


class BulkResult(ResultSet, Generic[R]):
    """The results of a bulk, in the order of its items.

    An item that could not be sent has a result, too: one that is a FAILURE with the error.

    :ivar errors: position -> error, of every item that was not accepted.
    :ivar unknown: positions of items that may have been stored all the same.
    """

    def __init__(self, results: Iterable[Any] = (), app: App | None = None) -> None:
        super().__init__(results, app)
        self.errors: dict[int, Exception] = {}
        self.unknown: list[int] = []

    def get(self, *args: Any, **kwargs: Any) -> list[R]:
        """Wait for all of them and return what they returned, in order; see `ResultSet.get`."""
        return cast("list[R]", super().get(*args, **kwargs))

    join = get
    join_native = get


class Bulk:
    """Collects what one flow of execution sends. Made by `App.bulk`.

    :param chunk_size: tasks per round trip.
    """

    def __init__(self, client: Client, chunk_size: int = CHUNK_TASKS) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: give how many tasks to send at a time, at least 1")
        self._client = client
        self._chunk_size = chunk_size
        self._pending: list[_Taken] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self._closed = False  # written under the lock
        self.position = 0
        self.accepted = 0
        self.failed: list[_Failed] = []

    def take(self, task_id: str, messages: Sequence[Outgoing], claim: Claim | None = None) -> None:
        """Take the messages of a task; its claim to be unique is given up if they cannot be sent."""
        self._pending.append(_Taken(self.position, task_id, messages, claim))
        for message in messages:
            self._bytes += len(message.document)

    def take_or_flush(self, task_id: str, messages: Sequence[Outgoing], claim: Claim | None = None) -> None:
        """Take the messages of a task, once there is room for them.

        Coroutines that send side by side take their turns here.

        :raises BulkSendError: the broker is away; this task was not taken.
        :raises RuntimeError: the block has ended, and nobody would send it.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"task {task_id} was sent after its app.bulk() block: await it within")
            if self.full:
                self.flush()
            self.take(task_id, messages, claim)

    def close(self) -> None:
        """Send what was taken, and take nothing any more.

        :raises BulkSendError: as `flush`.
        """
        with self._lock:
            self._closed = True
            self.flush()

    @property
    def full(self) -> bool:
        """Whether enough has come together for a round trip."""
        return len(self._pending) >= self._chunk_size or self._bytes >= CHUNK_BYTES

    def flush(self) -> None:
        """Send what was taken.

        :raises BulkSendError: the broker is away; what it did not take is given up.
        """
        pending, self._pending, self._bytes = self._pending, [], 0
        groups: dict[tuple[str, ...], list[_Taken]] = {}
        for task in pending:
            groups.setdefault(tuple(message.queue for message in task.messages), []).append(task)
        lost: BrokerUnavailable | None = None
        for tasks in groups.values():
            lost = self._send(tasks, lost)
        if lost is not None:
            raise self.error(lost) from lost

    def _send(self, tasks: Sequence[_Taken], lost: BrokerUnavailable | None) -> BrokerUnavailable | None:
        """Send some, unless the broker is known to be lost; returns why it is now."""
        if lost is not None:
            self._fail(tasks, lost, unknown=False)
            return lost
        try:
            self._client.deliver([message for task in tasks for message in task.messages])
        except BrokerUnavailable as error:
            self._fail(tasks, error, unknown=error.outcome_unknown)
            return error
        except TransportError as error:
            if error.permanent and len(tasks) > 1:
                for task in tasks:  # one of them may be too large: the others are not to blame
                    lost = self._send((task,), lost)
                return lost
            # Refused for what it is, such as a queue whose key holds something else: the rest goes.
            self._fail(tasks, error, unknown=False)
        else:
            self.accepted += len(tasks)
        return None

    def _fail(self, tasks: Sequence[_Taken], error: TransportError, *, unknown: bool) -> None:
        self.failed += [_Failed(task, error, unknown) for task in tasks]
        for task in tasks:
            if task.claim is not None and not unknown:
                task.claim.abandon(error)

    def error(self, cause: Exception, result: Any = None) -> BulkSendError:
        """What became of everything so far, as an error."""
        unsent = [one.task.task_id for one in self.failed if not one.unknown]
        unknown = [one.task.task_id for one in self.failed if one.unknown]
        return BulkSendError(self.accepted, unsent, unknown, cause, result)


@contextmanager
def collected(client: Client, chunk_size: int = CHUNK_TASKS) -> Iterator[Bulk]:
    """Within it, what this flow of execution sends goes in bulk; see `App.bulk`."""
    bulk = Bulk(client, chunk_size)
    try:
        with client.diverting(bulk.take_or_flush):
            yield bulk
    finally:
        # Also when the block raises: a call that returned a result has been sent, in bulk or not.
        bulk.close()
    if bulk.failed:
        raise bulk.error(bulk.failed[0].error)


class Call(NamedTuple):
    """One call that a bulk is to make.

    :param name: of the task.
    """

    name: str
    send: Callable[[], Any]


def send_all(app: App, calls: Iterable[Call], chunk_size: int = CHUNK_TASKS) -> BulkResult[Any]:
    """Make every call of an iterable, in bulk; it is read no further than what was sent.

    :raises BulkSendError: the broker is away.
    """
    bulk = Bulk(app.client, chunk_size)
    found: BulkResult[Any] = BulkResult(app=app)
    try:
        try:
            with app.client.diverting(bulk.take):
                for call in calls:
                    found.results.append(_sent(call, bulk.position, found))
                    bulk.position += 1
                    if bulk.full:
                        bulk.flush()
        finally:
            # Also when the iterable raises: what it gave before is sent.
            bulk.flush()
    except BulkSendError as error:
        _note(found, bulk)
        raise bulk.error(error.cause, found) from error.cause
    _note(found, bulk)
    return found


def _sent(call: Call, position: int, found: BulkResult[Any]) -> Any:
    try:
        return call.send()
    except Exception as error:
        # Arguments bring code of the user's, which may raise anything.
        if isinstance(error, TransportError) and not error.permanent:
            raise  # there is no broker to send anything to
        found.errors[position] = error
        return EagerResult(fresh_id(), error, states.FAILURE, name=call.name)


def _note(found: BulkResult[Any], bulk: Bulk) -> None:
    """Put the failures of a bulk into its results."""
    for task, error, unknown in bulk.failed:
        found.errors[task.position] = error
        if unknown:
            found.unknown.append(task.position)
        else:
            name = getattr(found.results[task.position], "name", None)
            found.results[task.position] = EagerResult(task.task_id, error, states.FAILURE, name=name)


def calls_of(app: App, tasks: Iterable[Any]) -> Iterator[Call]:
    """What `App.send_tasks` is given, as calls.

    :raises TypeError: an item is neither a signature nor such a tuple.
    """
    for item in tasks:
        if isinstance(item, Mapping):
            made = item if isinstance(item, Signature) else app.signature(item)
            yield Call(str(made.get("task")), made.apply_async)
        elif isinstance(item, (tuple, list)) and 1 <= len(item) <= _PARTS:
            yield _call_of(app, item)
        else:
            raise TypeError(
                f"send_tasks() got {item!r:.80}: give signatures, such as task.s(1), or tuples of a task (or "
                "its name), arguments, keyword arguments and options"
            )


def _call_of(app: App, item: Sequence[Any]) -> Call:
    parts = list(item) + [(), {}, {}][len(item) - 1 :]
    target, args, kwargs, options = parts
    if not isinstance(target, str):
        return Call(target.name, partial(target.apply_async, args, kwargs, **options))
    return Call(target, partial(app.send_task, target, args, kwargs, **options))


class SendsInBulk:
    """The part of an app that sends many tasks at a time."""

    def send_tasks(self, tasks: Iterable[Any], *, chunk_size: int = CHUNK_TASKS) -> BulkResult[Any]:
        """Send many tasks with few round trips.

        :param tasks: signatures, or tuples of a task (or its name), arguments, keyword arguments and
            options, of which all but the first may be missing. Read no further than what was sent.
        :param chunk_size: tasks per round trip.
        :returns: a result per item; one that could not be sent has a failed one, and the others go.
        :raises BulkSendError: the broker is away; it says what was sent.
        """
        app = cast("App", self)
        return send_all(app, calls_of(app, tasks), chunk_size)

    def bulk(self, *, chunk_size: int = CHUNK_TASKS) -> AbstractContextManager[Bulk]:
        """Within ``with app.bulk():`` what is sent by this thread (or coroutine) goes in bulk.

        A call returns its result at once, and raises what is wrong with its arguments. The messages
        are sent when there are `chunk_size` of them, and at the end of the block.

        :raises BulkSendError: by a call or the end of the block: not everything was sent.
        """
        return collected(cast("App", self).client, chunk_size)
