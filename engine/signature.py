"""`Signature`: a call that has not been made (interop §9.1).

A signature is a plain map, so that any serializer can carry it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ..transports.identifiers import fresh_id
from .awaiting import AwaitsSignatures
from .local import get_current_app
from .unique import as_plain

if TYPE_CHECKING:
    from .app import App

_NEVER_OVERRIDDEN = frozenset({"group_id", "stamped_headers"})


class Signature(AwaitsSignatures, dict[str, Any]):
    """One call: task, arguments, options.

    :param task: a task, its name, or the map of a signature.
    :param options: options of `apply_async`; keywords that are none of the parameters join them.
    :param immutable: ignore what the task before it returned.
    """

    TYPES: ClassVar[dict[str, Any]] = {}
    """Kinds of signature by `subtask_type`. Filled while `canvas` is imported."""

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
            # Decoded JSON has lists; signatures compare by value.
            self["args"] = tuple(task.get("args") or ())
            return
        name = task if isinstance(task, str) or task is None else task.name
        if task is not None and not isinstance(task, str):
            self._type = task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options=as_plain({**(options or {}), **extra}),
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
                new_options[key] = list(listed(new_options[key]))
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
        self.options.update(as_plain(options))
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
        items = self.options[key] = list(listed(self.options.get(key)))
        if signature not in items:
            items.append(signature)
        return signature

    def flatten_links(self) -> list[Any]:
        """This signature and everything linked to it."""
        found: list[Any] = [self]
        for callback in listed(self.options.get("link")):
            found.extend(maybe_signature(callback, self._app).flatten_links())
        return found

    # -- running ------------------------------------------------------------------------------

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give it its task id now; returns the result it will have.

        Where results are messages it is told the queue to send its result to, too: a later step of a chain is
        sent by a worker, who cannot know who waits.
        """
        task_id = self.options.setdefault("task_id", _id or fresh_id())
        self.options.update({key: value for key, value in options.items() if value is not None})
        app = self.app
        told = self.options.get("reply_to") or self.options.get("ignore_result")
        if not told and not app.conf.task_always_eager:
            reply_to = app.client.reply_to()
            if reply_to:
                self.options["reply_to"] = reply_to
        return app.AsyncResult(task_id)

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
        return self.TYPES["chain"](self, other, app=self._app)

    # -- forms --------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: App | None = None) -> Any:
        """A signature of the right kind from its map."""
        kind = cls.TYPES.get(data.get("subtask_type") or "")
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


def listed(value: Any) -> Iterable[Any]:
    """What was linked, as a list, whether one or several."""
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
