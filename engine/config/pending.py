"""What ``app.conf`` is: settings collected from everywhere, resolved when they are first needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..unset import UNSET
from .checks import check
from .errors import ConfigError, Problem
from .names import advice, translate
from .show import humanize, table
from .sources import (
    ENV_MODULE,
    Layer,
    parse_layers,
    read_environ,
    read_file,
    read_mapping,
    read_object,
)
from .tree import DEFAULT_SOURCE, SETTINGS, Config

# Brokers that keep results as well, and so are the result store unless another is named.
_STORES_RESULTS = ("filesystem:", "memory:")


class PendingConfig:
    """Settings as attributes and items, in the order: defaults, file, environment, program, command line.

    Nothing is read before the first value is asked for. Every change drops what was resolved. One
    thread configures; any may read.

    :param namespace: prefix of the names in what `config_from_object` reads, such as ``CELERY``.
    """

    # Written by the methods of this class only.
    changes: dict[str, Any]
    namespace: str | None
    _change_sources: dict[str, str]
    _defaults: dict[str, Any]
    _object: tuple[Any, str | None, bool] | None
    _envvar: tuple[str, bool] | None
    _cli: dict[str, Any]
    _environ: Mapping[str, str] | None
    _resolved: Config | None
    _lent: dict[str, tuple[Any, Any]]

    def __init__(self, namespace: str | None = None) -> None:
        start: dict[str, Any] = {
            "changes": {},
            "namespace": namespace,
            "_change_sources": {},
            "_defaults": {},
            "_object": None,
            "_envvar": None,
            "_cli": {},
            "_environ": None,
            "_resolved": None,
            "_lent": {},
        }
        self.__dict__.update(start)

    # --- configuring

    def set(self, key: str, value: Any, source: str = "app.conf") -> None:
        """Give a value; an unknown key or a wrong value is reported by `resolve`.

        :param source: named in errors and by ``prefork config``, such as ``App(broker=...)``.
        """
        found = translate(key)
        name = key if found is None else found[0]
        self._lent.pop(name, None)
        self.changes[key] = value
        self._change_sources[key] = source
        self.__dict__["_resolved"] = None

    def update(self, *mappings: Mapping[str, Any], **values: Any) -> None:
        """Give several values."""
        for mapping in (*mappings, values):
            for key, value in dict(mapping).items():
                self.set(key, value)

    def setdefault(self, key: str, value: Any) -> Any:
        """Give a value unless somebody gave one already; the value that counts then."""
        if not self.resolve().is_given(key):
            self.set(key, value)
        return self[key]

    def add_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Give values that everything else overrides."""
        self._defaults.update(defaults)
        self.__dict__["_resolved"] = None

    def config_from_object(self, obj: Any, *, silent: bool = False, namespace: str | None = None) -> None:
        """Read settings from a module, class, instance, mapping, or its dotted name, when first needed.

        :param silent: an object that does not exist is not an error.
        """
        self.__dict__["_object"] = (obj, namespace or self.namespace, silent)
        self.__dict__["_resolved"] = None

    def config_from_envvar(self, variable_name: str, *, silent: bool = False) -> None:
        """Read settings from the module that an environment variable names, when first needed.

        :param silent: a variable that is not set, or a module that does not exist, is not an error.
        """
        self.__dict__["_envvar"] = (variable_name, silent)
        self.__dict__["_resolved"] = None

    # --- resolving

    def resolve(
        self, cli: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> Config:
        """The configuration, checked and complete; the same object until something changes.

        :param cli: settings from the command line, remembered for later calls.
        :param environ: instead of ``os.environ``, remembered likewise.
        :raises ConfigError: with every problem there is.
        """
        if cli is not None:
            self.__dict__.update(_cli=dict(cli), _resolved=None)
        if environ is not None:
            self.__dict__.update(_environ=environ, _resolved=None)
        self._take_back_lent()
        resolved = self._resolved
        if resolved is None:
            resolved = self._resolve(os.environ if self._environ is None else self._environ)
            self.__dict__["_resolved"] = resolved
        return resolved

    def _resolve(self, environ: Mapping[str, str]) -> Config:
        layers = [
            read_mapping(self._defaults.items(), "add_defaults"),
            read_file(environ, os.getcwd()),
            self._read_object(environ),
            read_environ(environ),
            self._read_changes(),
            read_mapping(self._cli.items(), "command line"),
        ]
        given, sources, problems = parse_layers(layers)
        values = {key: fact.fresh_default() for key, fact in SETTINGS.items() if key not in sources}
        values.update(given)
        if "result_backend" in values:
            values["result_backend"] = _result_backend(values["result_backend"], values.get("broker_url"))
        problems.extend(check(values, lambda key: sources.get(key, DEFAULT_SOURCE)))
        if problems:
            raise ConfigError(problems)
        return Config(values, sources)

    def _read_object(self, environ: Mapping[str, str]) -> Layer:
        if self._object is not None:
            target, namespace, silent = self._object
            return read_object(target, namespace=namespace, silent=silent)
        if self._envvar is not None:
            name, silent = self._envvar
            if environ.get(name):
                return read_object(environ[name], namespace=self.namespace, silent=silent)
            if silent:
                return Layer()
            remedy = "it is not set; it must name the module that holds the configuration"
            return Layer([Problem(name, "", "config_from_envvar", remedy)])
        if environ.get(ENV_MODULE):
            return read_object(environ[ENV_MODULE], namespace=self.namespace)
        return Layer()

    def _read_changes(self) -> Layer:
        layer = read_mapping(self.changes.items(), "app.conf")
        for name, source in self._change_sources.items():
            found = translate(name)
            if found is not None:
                layer.give(found[0], self.changes[name], source)
        return layer

    def _take_back_lent(self) -> None:
        """Turn maps and lists that were changed in place into changes."""
        for key, (before, lent) in list(self._lent.items()):
            if lent != before:
                self.set(key, lent)

    # --- reading

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("_") else translate(name)
        if found is None:
            hint = "" if name.startswith("_") else f": {advice(name)}"
            raise AttributeError(f"app.conf.{name}{hint}")
        return self._read(found[0])

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "namespace":
            self.__dict__["namespace"] = value
            self.__dict__["_resolved"] = None
        else:
            self.set(name, value)

    def __getitem__(self, key: str) -> Any:
        found = translate(key)
        if found is None:
            raise KeyError(key)
        return self._read(found[0])

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def _read(self, key: str) -> Any:
        value = self.resolve()[key]
        if not isinstance(value, (dict, list)):
            return value
        # `app.conf.beat_schedule["x"] = ...` is how programs write: lend a copy, look at it later.
        if key not in self._lent:
            self._lent[key] = (value, value.copy())
        return self._lent[key][1]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default` for a name that is no setting."""
        return self[key] if key in self else default

    def keys(self) -> Iterator[str]:
        """The names of all settings."""
        return iter(SETTINGS)

    def values(self) -> Iterator[Any]:
        """The values of all settings."""
        return (self._read(key) for key in SETTINGS)

    def items(self) -> Iterator[tuple[str, Any]]:
        """All settings and their values."""
        return ((key, self._read(key)) for key in SETTINGS)

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and translate(key) is not None

    def __repr__(self) -> str:
        state = "not resolved" if self._resolved is None else "resolved"
        return f"<PendingConfig: {state}, {len(self.changes)} changes>"

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Settings that were given (or all of them), secrets masked."""
        return table(self.resolve(), with_defaults=with_defaults, censored=censored)

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The same as text, one setting a line."""
        return humanize(self.resolve(), with_defaults=with_defaults, censored=censored)


def _result_backend(given: Any, broker_url: str | None) -> str | None:
    """Where results go: what was named, else the broker itself where it can keep them, else nowhere."""
    if given is UNSET:
        return broker_url if broker_url is not None and broker_url.startswith(_STORES_RESULTS) else None
    return None if given == "disabled" else given
