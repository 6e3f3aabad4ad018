"""What an app is given when it is made, and what its configuration says of its tasks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from .config import PendingConfig

_WITHOUT_EFFECT = frozenset({"loader", "amqp", "events", "log", "control", "fixups", "accept_magic_kwargs"})
"""Arguments of Celery's constructor that name classes of its machinery."""


def apply(
    conf: PendingConfig,
    settings: Mapping[str, Any],
    changes: Mapping[str, Any] | None,
    *,
    broker: str | None,
    backend: str | None,
    include: Iterable[str] | None,
) -> None:
    """Record what the constructor was given."""
    for key, value in (changes or {}).items():
        conf.set(key, value, "App(changes=...)")
    if broker is not None:
        conf.set("broker_url", broker, "App(broker=...)")
    if backend is not None:
        conf.set("result_backend", backend, "App(backend=...)")
    if include is not None:
        conf.set("include", (include,) if isinstance(include, str) else tuple(include), "App(include=...)")
    for key, value in settings.items():
        if key not in _WITHOUT_EFFECT:
            conf.set(key, value, f"App({key}=...)")


def annotate(task: Any, annotations: Any) -> None:
    """Override attributes of a task as `task_annotations` says: a map by name or ``"*"``, objects
    with `annotate`, or a list of both.

    :raises ImproperlyConfigured: something else.
    """
    for item in _items(annotations):
        if isinstance(item, Mapping):
            found = [item[key] for key in ("*", task.name) if key in item]
        elif hasattr(item, "annotate"):
            found = [item.annotate(task)]
            if hasattr(item, "annotate_any"):
                found.insert(0, item.annotate_any())
        else:
            raise ImproperlyConfigured(f"task_annotations: {item!r} is neither a map nor has annotate()")
        for attributes in found:
            for key, value in (attributes or {}).items():
                # Functions become methods of this one task, as users expect of on_failure and such.
                setattr(task, key, value.__get__(task) if hasattr(value, "__get__") else value)


def _items(annotations: Any) -> Iterable[Any]:
    if not annotations:
        return ()
    if isinstance(annotations, str):
        module, _, name = annotations.replace(":", ".").rpartition(".")
        return _items(getattr(import_module(module), name))
    return annotations if isinstance(annotations, (list, tuple)) else (annotations,)


def packages_of(packages: Any) -> list[str]:
    """The packages that `autodiscover_tasks` is to look into.

    :raises ImproperlyConfigured: none were given and there are no Django settings.
    """
    if callable(packages):
        packages = packages()
    if packages is None:
        if not os.environ.get("DJANGO_SETTINGS_MODULE"):
            raise ImproperlyConfigured(
                "autodiscover_tasks() without packages needs DJANGO_SETTINGS_MODULE: name the packages"
            )
        configs = import_module("django.apps").apps.get_app_configs()
        return [config.name for config in configs]
    return [packages] if isinstance(packages, str) else list(packages)
