"""The public names of the engine; each is imported when it is first used (PEP 562).

The supervisor lives in this package too and must not load any of them, which is why this table
may import locally.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import App as App
    from .app import App as Celery
    from .bulk import BulkResult as BulkResult
    from .canvas import Signature as Signature
    from .canvas import chain as chain
    from .canvas import chunks as chunks
    from .canvas import group as group
    from .canvas import maybe_signature as maybe_signature
    from .canvas import signature as signature
    from .canvas import subtask as subtask
    from .canvas import xmap as xmap
    from .canvas import xstarmap as xstarmap
    from .embed import Worker as Worker
    from .local import current_app as current_app
    from .local import current_task as current_task
    from .local import get_current_app as get_current_app
    from .progress_report import progress as progress
    from .request import Context as Context
    from .result import AsyncResult as AsyncResult
    from .result import EagerResult as EagerResult
    from .result import allow_join_result as allow_join_result
    from .result_sets import GroupResult as GroupResult
    from .result_sets import ResultSet as ResultSet
    from .schedules import crontab as crontab
    from .schedules import schedule as schedule
    from .shared import shared_task as shared_task
    from .shielding import shield as shield
    from .task import Task as Task
    from .unique import Unique as Unique
    from .version import __version__ as __version__

_PLACES = MappingProxyType(
    {
        "App": ".app",
        "AsyncResult": ".result",
        "BulkResult": ".bulk",
        "Celery": ".app",
        "Context": ".request",
        "EagerResult": ".result",
        "GroupResult": ".result_sets",
        "ResultSet": ".result_sets",
        "Signature": ".canvas",
        "Task": ".task",
        "Unique": ".unique",
        "Worker": ".embed",
        "__version__": ".version",
        "allow_join_result": ".result",
        "chain": ".canvas",
        "chunks": ".canvas",
        "crontab": ".schedules",
        "current_app": ".local",
        "current_task": ".local",
        "get_current_app": ".local",
        "group": ".canvas",
        "maybe_signature": ".canvas",
        "progress": ".progress_report",
        "schedule": ".schedules",
        "shared_task": ".shared",
        "shield": ".shielding",
        "signature": ".canvas",
        "subtask": ".canvas",
        "xmap": ".canvas",
        "xstarmap": ".canvas",
    }
)

_MODULES = frozenset({"canvas", "exceptions", "result", "schedules", "signals", "states", "utils"})

__all__ = [
    "App",
    "AsyncResult",
    "BulkResult",
    "Celery",
    "Context",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "Signature",
    "Task",
    "Unique",
    "Worker",
    "__version__",
    "allow_join_result",
    "chain",
    "chunks",
    "crontab",
    "current_app",
    "current_task",
    "get_current_app",
    "group",
    "maybe_signature",
    "progress",
    "schedule",
    "shared_task",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(place, __name__), "App" if name == "Celery" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES, *_MODULES})
