"""Tasks that take and return pydantic models (parity §4): plain data on the wire, models in the body.

pydantic is imported when the first such task is defined, and annotations are read at its first call, so that
they may name classes that are defined further down.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from importlib import import_module
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from .exceptions import ImproperlyConfigured, InvalidArguments

if TYPE_CHECKING:
    from .app import App


def _pydantic(task_name: str) -> Any:
    """The module.

    :raises ImproperlyConfigured: it is not installed, or of a version that is too old.
    """
    try:
        module = import_module("pydantic")
    except ModuleNotFoundError as error:
        if error.name != "pydantic":
            raise
        raise ImproperlyConfigured(
            f"task {task_name!r} has pydantic=True, and pydantic is not installed: install prefork[pydantic]"
        ) from None
    if not hasattr(module.BaseModel, "model_validate"):
        raise ImproperlyConfigured(
            f"task {task_name!r} has pydantic=True, and pydantic {module.VERSION} is too old: "
            "install 2.4 or later"
        )
    return module


class ModelHint(NamedTuple):
    """What an annotation asks for: a model class, or that or None."""

    model: Any
    optional: bool


def model_hint(annotation: Any, base: type[Any]) -> ModelHint | None:
    """The model class that an annotation asks for; None if it asks for anything else.

    :param base: `pydantic.BaseModel`.
    """
    optional = False
    if get_origin(annotation) in (Union, UnionType):
        arms = get_args(annotation)
        others = [arm for arm in arms if arm is not NoneType]
        optional = len(others) < len(arms)
        annotation = others[0] if len(others) == 1 else None
    if isinstance(annotation, type) and issubclass(annotation, base):
        return ModelHint(annotation, optional)
    return None


class ModelCalls:
    """What one function takes and returns as models.

    :param bind: the first argument is the task itself.
    :param strict: validate without converting (``"1"`` is no number then).
    :param context: for validators; ``celery_app`` and ``celery_task_name`` are added, as Celery does.
    :param dump_kwargs: of `model_dump`; ``mode`` is ``"json"`` unless it says otherwise.
    :raises ImproperlyConfigured: pydantic is not installed.
    """

    def __init__(
        self,
        app: App,
        function: Callable[..., Any],
        task_name: str,
        *,
        bind: bool = False,
        strict: bool = False,
        context: Mapping[str, Any] | None = None,
        dump_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        module = _pydantic(task_name)
        self._base: type[Any] = module.BaseModel
        self._invalid: type[Exception] = module.ValidationError
        self._function = function
        self._name = task_name
        self._own = int(bind)  # parameters that no caller gives
        self._strict = strict
        self._context = {**(context or {}), "celery_app": app, "celery_task_name": task_name}
        self._dump_kwargs: dict[str, Any] = {"mode": "json", **(dump_kwargs or {})}

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @cached_property
    def _models(self) -> dict[str, ModelHint]:
        """The model classes by name of the parameter, and of ``return``.

        :raises ImproperlyConfigured: an annotation names something that its module does not have.
        """
        try:
            hints = get_type_hints(self._function)
        except NameError as error:
            raise ImproperlyConfigured(
                f"task {self._name!r} has pydantic=True, and an annotation cannot be resolved: {error}; "
                "define the model at the top of its module"
            ) from error
        found = {name: model_hint(hint, self._base) for name, hint in hints.items()}
        return {name: hint for name, hint in found.items() if hint is not None}

    def validated(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments of a call, models made of plain data.

        :raises InvalidArguments: one is not what its model asks for; what it holds is not repeated.
        :raises TypeError: the function could not be called like this.
        """
        bound = self._signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            hint = self._models.get(name)
            if hint is None or (value is None and hint.optional):
                continue
            try:
                bound.arguments[name] = hint.model.model_validate(
                    value, strict=self._strict, context=self._context
                )
            except self._invalid as error:
                raise InvalidArguments(self._name, name, _problems(error)) from None
        return bound

    def sendable(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call as plain data; what is no model stays."""

        def plain(name: str, value: Any) -> Any:
            known = name in self._models and isinstance(value, self._base)
            return value.model_dump(**self._dump_kwargs) if known else value

        names = list(self._signature.parameters)[self._own :]
        positional = (*(plain(name, value) for name, value in zip(names, args)), *args[len(names) :])
        return positional, {name: plain(name, value) for name, value in kwargs.items()}

    def returned(self, value: Any) -> Any:
        """What the function returned, as plain data if it is the model that its annotation names."""
        hint = self._models.get("return")
        known = hint is not None and isinstance(value, hint.model)
        return value.model_dump(**self._dump_kwargs) if known else value

    def body(self) -> Callable[..., Any]:
        """The function with plain data around it; ``async def`` where the function is."""
        function = self._function
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                bound = self.validated(args, kwargs)
                return self.returned(await function(*bound.args, **bound.kwargs))

            return awaited

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            bound = self.validated(args, kwargs)
            return self.returned(function(*bound.args, **bound.kwargs))

        return called


def _problems(error: Any) -> list[str]:
    """One line per problem: where, and what was expected; never what was given."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}" for problem in found]
