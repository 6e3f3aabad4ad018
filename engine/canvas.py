"""Workflows: signatures built of signatures (interop §9, parity §7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from ..transports.identifiers import fresh_id
from .eager_result import gathering
from .local import get_current_app
from .signature import Signature, listed, maybe_signature, signature, subtask

if TYPE_CHECKING:
    from .app import App

__all__ = [
    "ChordNeeded",
    "Signature",
    "chain",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]

SENT_TOGETHER = 500
"""How many messages of a group go in one round trip."""


class _Composite(Signature):
    """A signature that is made of others, kept under ``kwargs["tasks"]``."""

    @property
    def tasks(self) -> list[Any]:
        """The parts."""
        return cast("list[Any]", self.kwargs["tasks"])

    @property
    def app(self) -> App:
        """The app of the first part that has one."""
        for task in self.tasks:
            if getattr(task, "_app", None) is not None:
                return cast("App", task._app)
        return self._app or get_current_app()

    def _copies(self) -> list[Any]:
        return [maybe_signature(task, self._app).clone() for task in self.tasks]

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A copy, its parts copied too."""
        copy = super().clone(args, kwargs, **options)
        copy.kwargs["tasks"] = self._copies()
        return copy


def _parts(tasks: tuple[Any, ...]) -> list[Any]:
    only = tasks[0] if len(tasks) == 1 else None
    if only is not None and not isinstance(only, Mapping):
        return list(only)
    return list(tasks)


def _chained(results: list[Any]) -> list[Any]:
    for before, after in zip(results, results[1:]):
        after.parent = before
    return results


def _steps(sig: Any) -> list[Any]:
    return list(sig.tasks) if isinstance(sig, chain) and not sig.options else [sig]


class chain(_Composite):
    """Tasks one after the other; each receives what the one before returned, as first argument."""

    subtask_type = "chain"

    def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
        parts = [step for task in _parts(tasks) for step in _steps(maybe_signature(task, app))]
        super().__init__("celery.chain", (), {"tasks": parts}, options, app=app)

    def apply_async(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Send the first task; it carries the others. Returns the result of the last one.

        :raises NotImplementedYet: a step is itself a group (that needs a chord).
        """
        steps = self._copies()
        if not steps:
            return None
        _refuse_groups(steps)
        first, rest = steps[0], steps[1:]
        merged = {**self.options, **options}
        links = merged.pop("link", None)
        task_id, reply_to = merged.pop("task_id", None), merged.pop("reply_to", None)
        for errback in listed(merged.pop("link_error", None)):
            for step in steps:
                step.link_error(errback)
        for callback in listed(links):
            steps[-1].link(callback)
        results = _chained(
            [step.freeze(task_id if step is steps[-1] else None, reply_to=reply_to) for step in steps]
        )
        if rest:
            merged["chain"] = [dict(step) for step in reversed(rest)]
        with gathering() as ran:
            first.apply_async(args, kwargs, **merged)
        if ran:  # eagerly: the steps that were reached have results already
            results = _chained([ran.get(result.id, result) for result in results])
        return results[-1]

    def apply(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Run all of it here; returns the result of the last task."""
        result = None
        given: Iterable[Any] = args
        for step in self._copies():
            before = result
            result = step.apply(given, kwargs, **options)
            result.parent = before
            given, kwargs = (result.get(),), None
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it."""
        return self.apply_async(args, kwargs)

    def __repr__(self) -> str:
        return " | ".join(repr(task) for task in self.tasks)


class group(_Composite):
    """Tasks side by side; its result is a `GroupResult`."""

    subtask_type = "group"

    def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
        parts: list[Any] = []
        for task in _parts(tasks):
            sig = maybe_signature(task, app)
            parts.extend(sig.tasks if isinstance(sig, group) else [sig])
        super().__init__("celery.group", (), {"tasks": parts}, options, app=app)

    def apply_async(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Send every task, with few round trips; none if one of them cannot be sent."""
        merged = {**self.options, **options}
        group_id = merged.pop("task_id", None) or fresh_id()
        app = self.app
        results = []
        with app.client.collecting() as messages:
            for index, task in enumerate(self._copies()):
                if task.subtask_type is None:
                    task.options.update(group_id=group_id, group_index=index)
                results.append(task.apply_async(args, kwargs, **merged))
        for start in range(0, len(messages), SENT_TOGETHER):
            some = messages[start : start + SENT_TOGETHER]
            retry, policy = merged.get("retry"), merged.get("retry_policy")
            app.client.publish(some, group_id, retry=retry, policy=policy)
        return app.GroupResult(group_id, results)

    def apply(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Run all of it here."""
        results = [task.apply(args, kwargs, **options) for task in self._copies()]
        return self.app.GroupResult(fresh_id(), results)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Any:
        """Start the tasks one after the other, `step` seconds apart."""
        wait_s = start
        for task in self.tasks:
            task.set(countdown=wait_s)
            wait_s += step
            if stop is not None and wait_s > stop:
                wait_s = start
        return self

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(args, **options)

    def __or__(self, other: Any) -> Any:
        raise _needs_chord("a group followed by another task")

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self)

    def __repr__(self) -> str:
        return f"group({self.tasks!r})"


class ChordNeeded(TypeError):
    """The workflow needs a chord (tasks side by side, then one with all their results)."""


def _needs_chord(what: str) -> ChordNeeded:
    return ChordNeeded(
        f"{what} needs a chord, which this version does not have: collect with "
        "GroupResult.get() and send the next task from there"
    )


def _refuse_groups(steps: list[Any]) -> None:
    if any(step.subtask_type == "group" for step in steps[:-1]):
        raise _needs_chord("a chain with a group before its end")
    if steps[-1].subtask_type == "group" and len(steps) > 1:
        raise _needs_chord("a chain that ends in a group")


Signature.TYPES.update({"chain": chain, "group": group})


def _over(name: str, task: Any, it: Iterable[Any], app: App | None, **kwargs: Any) -> Signature:
    values = {"task": maybe_signature(task, app), "it": [*it], **kwargs}
    return Signature(name, (), values, immutable=True, app=app or getattr(task, "_app", None))


def xmap(task: Any, it: Iterable[Any], app: App | None = None) -> Signature:
    """One message that calls the task with each item, inline, and returns the list."""
    return _over("celery.map", task, it, app)


def xstarmap(task: Any, it: Iterable[Any], app: App | None = None) -> Signature:
    """Like `xmap`, each item being all positional arguments of a call."""
    return _over("celery.starmap", task, it, app)


def _regrouped(it: Iterable[Any], n: int) -> Iterator[list[Any]]:
    source = iter(it)
    while part := list(islice(source, n)):
        yield part


def chunks(task: Any, it: Iterable[Any], n: int, app: App | None = None) -> group:
    """A group of `xstarmap` messages of `n` calls each.

    :raises ValueError: `n` is less than one.
    """
    if n < 1:
        raise ValueError(f"chunks of {n} calls: give a size of at least 1")
    return group(*(xstarmap(task, part, app=app) for part in _regrouped(it, n)), app=app)
