"""Where settings come from: files, Python objects, the environment, mappings.

Every reader returns a `Layer`: the raw values by key, each with its source, and what is wrong with
the names. Values are parsed later, and only those that no higher layer replaces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from .errors import Problem
from .names import Style, advice, looks_like_a_setting, translate
from .redaction import show
from .tree import SETTINGS

ENV_PREFIX = "PREFORK_"
ENV_FILE = "PREFORK_CONFIG"
ENV_APP = "PREFORK_APP"
"""Read by the command line, which finds the application with it; no setting."""
ENV_MODULE = "CELERY_CONFIG_MODULE"

_INTERNAL_PREFIX = "PREFORK__"
_NO_SETTINGS = (ENV_FILE, ENV_APP)
_CELERY_ENV: Mapping[str, str] = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
}

_CODE = (type, FunctionType, BuiltinFunctionType, MethodType)

# Kubernetes puts the addresses of a service named "prefork-…" into every container's environment.
_SERVICE_LINK = r"_SERVICE_(HOST|PORT)(_\w+)?\Z|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?\Z"
_SERVICE_ADDRESS = ("tcp://", "udp://", "sctp://")


class Layer:
    """What one source gives. Written by its reader only."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.values: dict[str, tuple[Any, str]] = {}
        self.problems: list[Problem] = list(problems)

    def give(self, key: str, raw: Any, source: str) -> None:
        """Take a value; within one layer the last one counts."""
        self.values[key] = (raw, source)


def read_mapping(pairs: Iterable[tuple[str, Any]], source: str) -> Layer:
    """Settings from a mapping, under today's names or under Celery's old ones, not both."""
    layer = Layer()
    first: dict[Style, tuple[str, str]] = {}
    for name, raw in pairs:
        found = translate(name)
        if found is None:
            layer.problems.append(Problem(name, "", source, advice(name)))
            continue
        key, style = found
        first.setdefault(style, (name, key))
        layer.give(key, raw, source)
    if len(first) > 1:
        new, (old, key_of_old) = first[Style.NEW][0], first[Style.OLD]
        layer.problems.append(
            Problem(old, "", source, f"old and new names are mixed (here is also {new}); write {key_of_old}")
        )
    return layer


def read_namespace(pairs: Iterable[tuple[str, Any]], source: str, namespace: str) -> Layer:
    """Settings whose names begin with a namespace, such as ``CELERY_TASK_ALWAYS_EAGER``."""
    prefix = namespace if namespace.endswith("_") else f"{namespace}_"
    layer = Layer()
    for name, raw in pairs:
        if not name.startswith(prefix):
            continue
        key = name[len(prefix) :].lower()
        if key in SETTINGS:
            layer.give(key, raw, source)
        else:
            layer.problems.append(Problem(name, "", source, advice(name[len(prefix) :], prefix)))
    return layer


def read_object(target: Any, *, namespace: str | None = None, silent: bool = False) -> Layer:
    """Settings from a module, class, instance, mapping, or the dotted name of one.

    :param silent: a module or attribute that does not exist gives nothing.
    """
    layer = Layer()
    source = _name_of(target)
    if isinstance(target, str):
        try:
            target = _import(target)
        except (ImportError, AttributeError, ValueError) as error:
            if not (silent and _is_absent(target, error)):
                remedy = _import_advice(target, error)
                layer.problems.append(Problem("config_from_object", repr(target), source, remedy))
            return layer
    if isinstance(target, Mapping):
        pairs = [(str(name), raw) for name, raw in target.items()]
    else:
        pairs = list(_attributes(target, namespace))
    if namespace:
        return read_namespace(pairs, source, namespace)
    return read_mapping(pairs, source)


def _attributes(target: Any, namespace: str | None) -> Iterable[tuple[str, Any]]:
    """Attributes that are settings or must be meant as such; imports and helpers are passed over."""
    for name in dir(target):
        known = translate(name)
        if name.startswith("_") or (namespace and not name.startswith(namespace)):
            continue
        if known is None and not namespace and not looks_like_a_setting(name):
            continue
        raw = getattr(target, name)
        is_code = isinstance(raw, _CODE)
        if isinstance(raw, ModuleType) or (
            is_code and (known is None or not SETTINGS[known[0]].kind.takes_objects)
        ):
            continue
        yield name, raw


def _import(name: str) -> Any:
    """A module, or an attribute of one (``package.module:name`` or ``package.module.name``)."""
    module_name, colon, attribute = name.partition(":")
    if colon:
        return getattr(import_module(module_name), attribute)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        parent, dot, attribute = name.rpartition(".")
        if not dot or error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        try:
            return getattr(import_module(parent), attribute)
        except AttributeError:
            raise error from None


def _is_absent(name: str, error: Exception) -> bool:
    """Whether the named thing does not exist, as against: it exists and cannot be imported."""
    if not isinstance(error, ImportError):
        return True
    missing = error.name or ""
    module = name.partition(":")[0]
    return module == missing or module.startswith(f"{missing}.")


def _import_advice(name: str, error: Exception) -> str:
    if name.endswith(".py"):
        return f"write the name of the module, without .py: {name.removesuffix('.py')!r}"
    return f"it cannot be imported ({error}); is its directory on sys.path?"


def _name_of(target: Any) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, ModuleType):
        return target.__name__
    if isinstance(target, Mapping):
        return "config_from_object(mapping)"
    owner = target if isinstance(target, type) else type(target)
    return f"{owner.__module__}.{owner.__qualname__}"


def read_environ(environ: Mapping[str, str]) -> Layer:
    """Settings from ``PREFORK_*``, and the few variables of Celery's that name a broker or store."""
    layer = Layer()
    for name, key in _CELERY_ENV.items():
        if environ.get(name):
            layer.give(key, environ[name], f"env {name}")
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name.startswith(_INTERNAL_PREFIX) or name in _NO_SETTINGS:
            continue
        if _is_service_link(name, environ[name]):
            continue
        key = name[len(ENV_PREFIX) :].lower()
        if key in SETTINGS:
            layer.give(key, environ[name], f"env {name}")
        else:
            problem = Problem(name, "", "environment", advice(name[len(ENV_PREFIX) :], ENV_PREFIX))
            layer.problems.append(problem)
    return layer


def _is_service_link(name: str, value: str) -> bool:
    return bool(re.search(_SERVICE_LINK, name)) or (
        name.endswith("_PORT") and value.startswith(_SERVICE_ADDRESS)
    )


def read_file(environ: Mapping[str, str], directory: str) -> Layer:
    """Settings from the file ``PREFORK_CONFIG`` names, else ``prefork.toml``, else ``pyproject.toml``."""
    named = environ.get(ENV_FILE)
    if named:
        return _read_toml(os.path.join(directory, named), (), named)
    own = os.path.join(directory, "prefork.toml")
    if os.path.isfile(own):
        return _read_toml(own, (), "prefork.toml")
    project = os.path.join(directory, "pyproject.toml")
    if os.path.isfile(project):
        return _read_toml(project, ("tool", "prefork"), "pyproject.toml [tool.prefork]")
    return Layer()


def _read_toml(path: str, table: tuple[str, ...], source: str) -> Layer:
    # Looked up on use: the parser costs more to import than everything else here, and most
    # programs have no such file.
    toml_file = import_module(f"{__package__}.toml_file")
    try:
        return read_mapping(toml_file.read_toml(path, table).items(), source)
    except toml_file.UnreadableFile as error:
        return Layer([Problem("configuration file", path, source, error.why)])


def parse_layers(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str], list[Problem]]:
    """Merge layers, the later over the earlier, and parse what remains.

    :returns: parsed values by key, their sources, and every problem found.
    """
    winners: dict[str, tuple[Any, str]] = {}
    problems: list[Problem] = []
    for layer in layers:
        winners.update(layer.values)
        problems.extend(layer.problems)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, (raw, source) in winners.items():
        sources[key] = source
        try:
            values[key] = SETTINGS[key].kind.parse(raw)
        except ValueError as error:
            problems.append(Problem(key, show(key, raw), source, str(error)))
    return values, sources, problems
