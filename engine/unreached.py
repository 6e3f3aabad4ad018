"""The tasks that nobody will run any more, because one before them in their chain did not succeed.

Who waits for the last one must not wait for ever: the end of the one that did not succeed is stored for
all that were to follow it, together with its own (interop §9.3). So do Celery's workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..transports.base import StoredResult
from . import states
from .einfo import ExceptionInfo
from .message_errors import encodable
from .message_headers import ID_CHARS_MAX
from .options import options_of
from .result_writer import ResultWriter

if TYPE_CHECKING:
    from .app import App

ENDS_CHAIN: Final = frozenset({states.FAILURE, states.REVOKED})
"""The states after which nothing of a chain runs."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Step(NamedTuple):
    """One task of the rest of a chain.

    :ivar ignore_result: what its own call says; None leaves it to the task.
    :ivar reply_to: where somebody waits for it, if it says so.
    """

    id: str
    task: str
    group_id: str | None
    ignore_result: bool | None
    reply_to: str | None


def steps_of(chain: Iterable[Any]) -> Iterator[Step]:
    """The tasks of a chain whose ids are known, the next one first.

    Callbacks of a step are no steps. Of a group, a chord or a chain within it those are named that it is
    made of. What comes from outside may have any shape: what is no signature is left out.

    :param chain: signatures as maps, the last one runs next.
    """
    pending, seen, looked_at = list(chain), set(), set()
    while pending:
        signature = pending.pop()
        # Pickles, and callers in this process, may share parts, or put one into itself.
        if not isinstance(signature, Mapping) or id(signature) in looked_at:
            continue
        looked_at.add(id(signature))
        options = _map(signature, "options")
        pending += _parts(signature, options)
        task_id = _id(options.get("task_id"))
        if signature.get("subtask_type") == "group" or task_id is None or task_id in seen:
            continue  # under the id of a group there is no result
        seen.add(task_id)
        headers = _map(options, "headers")
        ignored = headers.get("ignore_result", options.get("ignore_result"))
        yield Step(
            task_id,
            _text(signature.get("task")) or "",
            _text(options.get("group_id")),
            ignored if isinstance(ignored, bool) else None,
            _text(options.get("reply_to")),
        )


def _parts(signature: Mapping[str, Any], options: Mapping[str, Any]) -> list[Any]:
    """What a signature is made of, and what was to follow it, last first."""
    kwargs = _map(signature, "kwargs")
    kind = signature.get("subtask_type")
    names = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}.get(str(kind), ())
    found: list[Any] = []
    for name in names:
        part = kwargs.get(name)
        found += part if isinstance(part, (list, tuple)) else [part]
    following = options.get("chain")
    return [*(following if isinstance(following, (list, tuple)) else ()), *reversed(found)]


def _map(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, Mapping) else _NOTHING


def _id(value: Any) -> str | None:
    found = _text(value)
    return found if found is not None and 0 < len(found) <= ID_CHARS_MAX else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and encodable(value) == value else None


class Unreached:
    """Makes the results of what is not reached, by one configuration."""

    def __init__(self, app: App, config: Any, results: ResultWriter) -> None:
        self._app = app
        self._config = config
        self._results = results

    @property
    def told(self) -> bool:
        """Whether results are stored at all: else a chain need not be read."""
        return self._results.enabled

    def after(
        self,
        chain: Iterable[Any],
        error: Any,
        state: str = states.FAILURE,
        *,
        einfo: ExceptionInfo | None = None,
        ignored: bool = False,
        reply_to: str | None = None,
    ) -> tuple[StoredResult, ...]:
        """The results of the tasks that were to follow one; of those that ignore theirs there is none.

        :param error: how that one ended, with `einfo`, if it ran.
        :param state: of its result: FAILURE or REVOKED.
        :param ignored: whether it ignores its own result: so do the tasks of which nothing is known here.
        :param reply_to: where somebody waits for its result.
        """
        if not self.told:
            return ()
        traceback = einfo.traceback if einfo is not None else None
        return tuple(
            self._results.end(
                step.id,
                state,
                error,
                traceback=traceback,
                group_id=step.group_id,
                reply_to=step.reply_to or reply_to or "",
            )
            for step in steps_of(chain)
            if self._is_stored(step, state, ignored)
        )

    def _is_stored(self, step: Step, state: str, ignored: bool) -> bool:
        task = self._app.tasks.get(step.task)
        stores_errors = self._config.task_store_errors_even_if_ignored
        if task is not None:
            options = options_of(task, self._config)
            stores_errors, ignored = options.store_errors_even_if_ignored, options.ignore_result
        if step.ignore_result is not None:
            ignored = step.ignore_result
        return not ignored or (stores_errors and state == states.FAILURE)
