"""Sets of results: `ResultSet`, and `GroupResult`, which can be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import revoking
from .async_result import INTERVAL_MAX_S, AsyncResult, result_from_tuple
from .awaiting import AwaitsSeveral
from .clock import mono_s
from .eager_result import EagerResult
from .exceptions import TimeoutError
from .join_guard import assert_may_join
from .local import get_current_app
from .look_ahead import looking_ahead, read_final

if TYPE_CHECKING:
    from .app import App

WAIT_MOST = 1000
"""How many results are waited for at a time."""

REVOKE_MOST = 1000
"""How many tasks one command revokes."""

SHOWN_MOST = 10
"""How many results a text for people names."""


class ResultSet(AwaitsSeveral):
    """Several results, in order.

    :param results: `AsyncResult`s, `EagerResult`s or further sets.
    """

    def __init__(self, results: Iterable[Any], app: App | None = None, **_: Any) -> None:
        self._app = app
        self.results = list(results)

    # -- the set ------------------------------------------------------------------------------

    def add(self, result: Any) -> None:
        """Add a result that is not in it."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a result, or the one of an id.

        :raises KeyError: it is not in it.
        """
        if result not in self.results:
            raise KeyError(result)
        self.results.remove(result)

    def discard(self, result: Any) -> None:
        """Remove a result if it is in it."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add several."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Remove all."""
        self.results.clear()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __contains__(self, result: Any) -> bool:
        return result in self.results

    # -- questions ----------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether every task has ended."""
        return all(result.ready() for result in looking_ahead(self.results))

    def successful(self) -> bool:
        """Whether every task returned."""
        return all(result.successful() for result in looking_ahead(self.results))

    def failed(self) -> bool:
        """Whether any task raised."""
        return any(result.failed() for result in looking_ahead(self.results))

    def waiting(self) -> bool:
        """Whether any task has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """How many returned."""
        read_final(self.results)
        return sum(
            result.completed_count()
            if isinstance(result, ResultSet)
            else int(not (isinstance(result, AsyncResult) and result.unknown) and result.successful())
            for result in self.results
        )

    # -- waiting ------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for all of them and return what they returned, in order.

        :param timeout: seconds for all of them together; None waits for ever.
        :param propagate: raise the first error (in order) instead of returning it.
        :raises TimeoutError: they did not all end in time.
        :raises RuntimeError: called inside a task, see `allow_join_result`.
        """
        if disable_sync_subtasks:
            assert_may_join()
        deadline_mono_s = None if timeout is None else mono_s() + timeout
        values: list[Any] = []
        for result in looking_ahead(self.results):
            left_s = None if deadline_mono_s is None else max(0.0, deadline_mono_s - mono_s())
            value = result.get(
                timeout=left_s,
                propagate=propagate,
                interval=interval,
                on_message=on_message,
                on_interval=on_interval,
                disable_sync_subtasks=False,
            )
            if callback is not None:
                callback(result.id, value)
            values.append(value)
        return values

    join = get
    join_native = get

    def iter_native(self, timeout: float | None = None, interval: float = 0.5) -> Iterator[tuple[str, Any]]:
        """Pairs of id and a map of status and result, as the tasks end.

        :raises TimeoutError: the next one did not end in time (seconds from the start).
        """
        deadline_mono_s = None if timeout is None else mono_s() + timeout
        left = {result.id: result for result in self.results}
        for result in list(left.values()):
            if isinstance(result, (EagerResult, GroupResult)):
                del left[result.id]
                yield (
                    result.id,
                    {"status": getattr(result, "state", None), "result": result.get(propagate=False)},
                )
        while left:
            step_s = INTERVAL_MAX_S if deadline_mono_s is None else deadline_mono_s - mono_s()
            stored = next(iter(left.values())).app.client.stored
            more = list(islice(left, WAIT_MOST, None))
            # Those that were sent first usually end first; at times the others are looked at.
            step_s = min(step_s, interval) if more else step_s
            found = stored.wait_any(list(islice(left, WAIT_MOST)), max(0.0, step_s))
            found = found or stored.read_final(more)
            for task_id, document in found.items():
                del left[task_id]
                yield task_id, {"status": document.status, "result": document.result}
            if left and deadline_mono_s is not None and mono_s() >= deadline_mono_s:
                raise TimeoutError(f"{len(left)} of {len(self.results)} results missing after {timeout:g} s")

    # -- acting -------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete what is stored of each."""
        for result in self.results:
            result.forget()

    def revoke(self, connection: Any = None, **options: Any) -> None:
        """Keep those that have not started from running; options as of `AsyncResult.revoke`."""
        # Those that only have an id are revoked together: workers are asked once, not a thousand times.
        together: dict[App, list[str]] = {}
        for result in self.results:
            if isinstance(result, AsyncResult) and type(result).revoke is AsyncResult.revoke:
                together.setdefault(result.app, []).append(result.id)
            else:
                result.revoke(**options)
        for app, ids in together.items():
            for begin in range(0, len(ids), REVOKE_MOST):
                revoking.revoke(app, ids[begin : begin + REVOKE_MOST], **options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultSet) and other.results == self.results

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        shown = [str(result) for result in self.results[:SHOWN_MOST]]
        if len(self.results) > SHOWN_MOST:
            shown.append(f"... {len(self.results)} in all")
        return f"<{type(self).__name__}: [{', '.join(shown)}]>"


class GroupResult(ResultSet):
    """The results of a group.

    :param id: the group's id.
    """

    def __init__(
        self, id: str, results: Iterable[Any] = (), parent: Any = None, app: App | None = None, **_: Any
    ) -> None:
        super().__init__(results, app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """The results."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """``((id, parent), [children…])`` (interop §8.4)."""
        above = None if self.parent is None else self.parent.as_tuple()
        return (self.id, above), [result.as_tuple() for result in self.results]

    def save(self) -> GroupResult:
        """Store it, for `restore` in another process."""
        _app_of(self).client.stored.save_group(self.id, self.as_tuple())
        return self

    def delete(self) -> None:
        """Delete what `save` stored."""
        _app_of(self).client.stored.forget_group(self.id)

    @classmethod
    def restore(cls, id: str, app: App | None = None) -> GroupResult | None:
        """What was saved under an id; None if nothing is."""
        found = _current(app).client.stored.read_group(id)
        return None if found is None else result_from_tuple(found, app)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and other.id == self.id and other.results == self.results

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.results, self.parent)


def _current(app: App | None) -> App:
    return app if app is not None else get_current_app()


def _app_of(group: GroupResult) -> App:
    return _current(group._app)
