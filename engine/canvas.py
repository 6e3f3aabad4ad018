"""Calls that have not been made: signatures, and what is built of them (interop §9, parity §7).

A signature is a plain map, so that any serializer can carry it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from ..transports.identifiers import fresh_id
from .local import get_current_app

if TYPE_CHECKING:
    from .app import App

_NEVER_OVERRIDDEN = frozenset({"group_id", "stamped_headers"})


class Signature(dict[str, Any]):
    """One call: task, arguments, options.

    :param task: a task, its name, or the map of a signature.
    :param options: options of `apply_async`; keywords that are none of the parameters join them.
    :param immutable: ignore what the task before it returned.
    """

    subtask_type: str | None = None

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: App | None = None,
        **extra: Any,
    ) -> None:
        self._app = app
        self._type = type
        if isinstance(task, Mapping):
            super().__init__(task)
            return
        name = task if isinstance(task, str) or task is None else task.name
        if task is not None and not isinstance(task, str):
            self._type = task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **extra},
            subtask_type=subtask_type or self.subtask_type,
            immutable=immutable,
        )

    # -- fields -------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """Name of the task."""
        return cast(str, self["task"])

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments."""
        return tuple(self.get("args") or ())

    @args.setter
    def args(self, value: Iterable[Any]) -> None:
        self["args"] = tuple(value)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        return cast("dict[str, Any]", self.setdefault("kwargs", {}))

    @kwargs.setter
    def kwargs(self, value: Mapping[str, Any]) -> None:
        self["kwargs"] = dict(value)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `apply_async`."""
        return cast("dict[str, Any]", self.setdefault("options", {}))

    @property
    def immutable(self) -> bool:
        """Whether it ignores what the task before it returned."""
        return bool(self.get("immutable", False))

    @property
    def id(self) -> str | None:
        """The task id, once one was given."""
        return cast("str | None", self.options.get("task_id"))

    @property
    def app(self) -> App:
        """The app that will send it."""
        return self._app or get_current_app()

    @property
    def type(self) -> Any:
        """The task itself, where this process knows it."""
        return self._type or self.app.tasks[self.task]

    @property
    def name(self) -> str:
        """The same as `task`."""
        return self.task

    # -- merging ------------------------------------------------------------------------------

    def _merge(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, options: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Partial application: given positionals go first, given keywords and options win."""
        kept = {k: v for k, v in self.options.items() if k in _NEVER_OVERRIDDEN}
        merged = {**self.options, **(options or {}), **kept}
        if self.immutable:
            return self.args, dict(self.kwargs), merged
        return (*args, *self.args), {**self.kwargs, **(kwargs or {})}, merged

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A copy, with more arguments or options."""
        new_args, new_kwargs, new_options = self._merge(args, kwargs, options)
        copy = type(self).__new__(type(self))
        dict.__init__(copy, {**self, "args": new_args, "kwargs": new_kwargs, "options": new_options})
        copy._app, copy._type = self._app, self._type
        for key in ("link", "link_error"):
            if key in new_options:
                new_options[key] = list(_listed(new_options[key]))
        return copy

    partial = clone

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> Any:
        """A copy in which what is given takes the place of what was there."""
        copy = self.clone()
        for key, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                copy[key] = tuple(value) if key == "args" else dict(value)
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Any:
        """Set options; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether it ignores what the task before it returned."""
        self["immutable"] = immutable

    # -- links --------------------------------------------------------------------------------

    def link(self, callback: Any) -> Any:
        """Call `callback` with the return value; returns the callback."""
        return self._add("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when it fails; returns the errback."""
        return self._add("link_error", errback)

    def on_error(self, errback: Any) -> Any:
        """Like `link_error`; returns itself."""
        self.link_error(errback)
        return self

    def _add(self, key: str, signature: Any) -> Any:
        items = self.options[key] = list(_listed(self.options.get(key)))
        if signature not in items:
            items.append(signature)
        return signature

    def flatten_links(self) -> list[Any]:
        """This signature and everything linked to it."""
        found: list[Any] = [self]
        for callback in _listed(self.options.get("link")):
            found.extend(maybe_signature(callback, self._app).flatten_links())
        return found

    # -- running ------------------------------------------------------------------------------

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give it its task id now; returns the result it will have."""
        task_id = self.options.setdefault("task_id", _id or fresh_id())
        self.options.update({key: value for key, value in options.items() if value is not None})
        return self.app.AsyncResult(task_id)

    def apply_async(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Send it to a worker."""
        new_args, new_kwargs, new_options = self._merge(args, kwargs, options)
        task = self._type if self._type is not None else self.app.registry.get(self.task)
        if task is None:
            return self.app.send_task(self.task, new_args, new_kwargs, **new_options)
        return task.apply_async(new_args, new_kwargs, **new_options)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it to a worker, with more arguments."""
        return self.apply_async(args, kwargs)

    def apply(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Run it here."""
        new_args, new_kwargs, new_options = self._merge(args, kwargs, options)
        return self.type.apply(new_args, new_kwargs, **new_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task as a function."""
        new_args, new_kwargs, _ = self._merge(args, kwargs)
        return self.type(*new_args, **new_kwargs)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        return chain(*_steps(self), *_steps(maybe_signature(other, self._app)), app=self._app)

    # -- forms --------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: App | None = None) -> Any:
        """A signature of the right kind from its map."""
        kind = _KINDS.get(data.get("subtask_type") or "")
        if kind is not None:
            return kind(list(data["kwargs"]["tasks"]), app=app, **(data.get("options") or {}))
        return Signature(data, app=app)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """What the call looks like in source."""
        new_args, new_kwargs, _ = self._merge(args, kwargs)
        shown = [repr(arg) for arg in new_args] + [f"{key}={value!r}" for key, value in new_kwargs.items()]
        return f"{self.task}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.reprcall()


def _listed(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, Mapping) else value


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """A signature from a task, a name, or the map of one."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(value: Any, app: App | None = None) -> Any:
    """Maps become signatures; signatures and None stay as they are."""
    if value is None:
        return None
    if isinstance(value, Signature):
        if app is not None and value._app is None:
            value._app = app
        return value
    return Signature.from_dict(value, app=app)


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


def _steps(sig: Any) -> list[Any]:
    return list(sig.tasks) if isinstance(sig, chain) and not sig.options else [sig]


class chain(_Composite):  # noqa: N801 - the name users know
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
        task_id = merged.pop("task_id", None)
        for errback in _listed(merged.pop("link_error", None)):
            for step in steps:
                step.link_error(errback)
        for callback in _listed(links):
            steps[-1].link(callback)
        results = [step.freeze(task_id if step is steps[-1] else None) for step in steps]
        for before, after in zip(results, results[1:]):
            after.parent = before
        if rest:
            merged["chain"] = [dict(step) for step in reversed(rest)]
        first.apply_async(args, kwargs, **merged)
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


class group(_Composite):  # noqa: N801 - the name users know
    """Tasks side by side; its result is a `GroupResult`."""

    subtask_type = "group"

    def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
        parts: list[Any] = []
        for task in _parts(tasks):
            sig = maybe_signature(task, app)
            parts.extend(sig.tasks if isinstance(sig, group) else [sig])
        super().__init__("celery.group", (), {"tasks": parts}, options, app=app)

    def apply_async(self, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Any:
        """Send every task."""
        merged = {**self.options, **options}
        group_id = merged.pop("task_id", None) or fresh_id()
        app = self.app
        results = []
        for index, task in enumerate(self._copies()):
            if task.subtask_type is None:
                task.options.update(group_id=group_id, group_index=index)
            results.append(task.apply_async(args, kwargs, **merged))
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


_KINDS: Mapping[str, type[_Composite]] = {"chain": chain, "group": group}


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
