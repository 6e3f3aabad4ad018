"""Finding and importing apps and the modules that hold tasks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from .exceptions import AppNotFound, ImproperlyConfigured

if TYPE_CHECKING:
    from .app import App

MAIN_ALIAS = "__mp_main__"
"""The name under which a script is imported again, as multiprocessing's spawn does it."""


def module_exists(name: str) -> bool:
    """Whether a module could be found, without importing it (its parents are imported)."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def import_related(package: str, related_name: str | None) -> ModuleType | None:
    """Import ``package.related_name`` if it exists; an error inside it passes through.

    :raises ModuleNotFoundError: `package` itself does not exist.
    """
    module = import_module(package)
    if not related_name:
        return module
    if not hasattr(module, "__path__"):
        return None
    name = f"{package}.{related_name}"
    return import_module(name) if module_exists(name) else None


def autodiscover(packages: Iterable[str], related_name: str | None) -> list[ModuleType]:
    """Import the tasks modules of packages, those that have one."""
    found = [import_related(package, related_name) for package in packages]
    return [module for module in found if module is not None]


def find_app(where: str) -> App:
    """Import the app that ``-A`` names: ``module``, ``module:attribute`` or ``file:///script.py:attribute``.

    In a module without an attribute given, ``app`` and ``celery`` are looked at, then the module's
    own ``celery`` sub-module, then any single app.

    :raises AppNotFound: there is none; the message says where it was looked for.
    """
    if where.startswith("file://"):
        path, _, attribute = (
            where.rpartition(":") if where.rpartition(":")[2].isidentifier() else (where, "", "")
        )
        return _app_in(import_script(unquote(urlsplit(path).path)), attribute, where)
    name, _, attribute = where.partition(":")
    if not attribute and "." in name and not module_exists(name):
        name, _, attribute = name.rpartition(".")
    try:
        module = import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name != name and not name.startswith(f"{exc.name}."):
            raise
        raise AppNotFound(
            f"no module is called {name!r}: check -A/--app, --workdir, PYTHONPATH ({sys.path[:3]} …)"
        ) from exc
    return _app_in(module, attribute, where)


def import_script(path: str) -> ModuleType:
    """Import a script again, its ``if __name__ == "__main__"`` left out, and return its module.

    Its tasks get the names that they have in the script itself.

    :raises AppNotFound: there is no such file.
    """
    if not Path(path).is_file():
        raise AppNotFound(f"{path}: no such script")
    known = sys.modules.get(MAIN_ALIAS)
    if known is not None and getattr(known, "__file__", None) == path:
        return known
    spec = importlib.util.spec_from_file_location(MAIN_ALIAS, path)
    if spec is None or spec.loader is None:
        raise AppNotFound(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("__main__")
    # Under both names, so that what was pickled in the script finds its classes.
    sys.modules[MAIN_ALIAS] = sys.modules["__main__"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[MAIN_ALIAS]
        if before is not None:
            sys.modules["__main__"] = before
        raise
    return module


def _app_in(module: ModuleType, attribute: str, where: str) -> App:
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if isinstance(found, ModuleType):
            return _app_in(found, "", where)
        if not _is_app(found):
            raise AppNotFound(f"{where}: {attribute!r} is {type(found).__name__}, not an App")
        return found  # type: ignore[no-any-return]
    for name in ("app", "celery"):
        found = getattr(module, name, None)
        if _is_app(found):
            return found  # type: ignore[no-any-return]
    if hasattr(module, "__path__") and module_exists(f"{module.__name__}.celery"):
        return _app_in(import_module(f"{module.__name__}.celery"), "", where)
    apps = {id(value): value for value in vars(module).values() if _is_app(value)}
    if len(apps) == 1:
        return next(iter(apps.values()))  # type: ignore[no-any-return]
    found_text = "several apps" if apps else "no App"
    raise AppNotFound(f"{where}: {found_text} in {module.__name__}; name it, as in {module.__name__}:app")


def _is_app(value: Any) -> bool:
    """Whether it is an app; told by its class's marks, as importing `App` here would be a cycle."""
    return isinstance(getattr(type(value), "is_prefork_app", None), bool)


def location_of(app: App) -> str:
    """Where another process can import an app: ``module:attribute``, or ``file:///script.py:attribute``.

    :raises ImproperlyConfigured: it is not reachable by importing: a console, or a closure.
    """
    # The running script last: it may merely have imported the app from the module that defines it.
    for name in sorted(sys.modules, key=lambda name: name == "__main__"):
        module = sys.modules.get(name)
        if module is None or name == MAIN_ALIAS:
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app:
                if name != "__main__":
                    return f"{name}:{attribute}"
                spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
                if spec is not None and spec.name:
                    return f"{spec.name}:{attribute}"
                if path is not None and Path(path).is_file():
                    return f"{Path(path).resolve().as_uri()}:{attribute}"
    raise ImproperlyConfigured(
        f"{app!r} cannot be imported by another process: it is defined in a console or inside a function; "
        "assign it to a name at the top level of a module"
    )
