"""Opens a broker or a result store by the scheme of its URL.

The built-in schemes are a closed table of modules, imported on first use; others come from the entry
points `prefork.transports` and `prefork.results`. Both kinds are factories of the signature
``(url: str, options: Mapping[str, Any])``. The module of a factory may have a function ``check_options``
of the same signature, which raises what opening would raise and opens nothing: a worker that cannot
work is then refused before it starts. It may also have a set ``OPTIONS``: the names of options that have an
effect, so that others can be warned of.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from .base import ResultStore, Transport
from .errors import UnsupportedTransport
from .url import parse_failover

TRANSPORT_GROUP = "prefork.transports"
RESULTS_GROUP = "prefork.results"

BUILT_IN_TRANSPORTS: Mapping[str, str] = MappingProxyType(
    {
        "amqp": ".amqp",
        "amqps": ".amqp",
        "filesystem": ".filesystem",
        "memory": ".memory",
        "redis": ".redis",
        "redis+socket": ".redis",
        "rediss": ".redis",
        "sentinel": ".redis",
    }
)
BUILT_IN_RESULTS: Mapping[str, str] = MappingProxyType(
    {
        "file": ".filesystem",
        "filesystem": ".filesystem",
        "memory": ".memory",
        "redis": ".redis",
        "redis+socket": ".redis",
        "rediss": ".redis",
        "rpc": ".amqp.rpc_results",
        "sentinel": ".redis",
    }
)
BUILT_IN_RESULT_FAMILIES: Mapping[str, str] = MappingProxyType({"db+": ".database"})
"""Schemes that begin like this: what follows says which database it is."""

BUILT_IN_TRANSPORT_FAMILIES: Mapping[str, str] = MappingProxyType({"kombu+": ".kombu"})
"""Likewise; kombu is also asked for every other scheme that nobody provides."""

EXTRAS: Mapping[str, str] = MappingProxyType({"hiredis": "redis", "sqlalchemy": "sqlalchemy"})
"""Packages that only some schemes need, and the extras of this distribution that bring them."""


@dataclass(frozen=True)
class _Kind:
    """What is looked up: where, and under which name a module offers its factory."""

    name: str
    built_in: Mapping[str, str]
    families: Mapping[str, str]
    group: str
    factory: str


_TRANSPORT = _Kind(
    "transport", BUILT_IN_TRANSPORTS, BUILT_IN_TRANSPORT_FAMILIES, TRANSPORT_GROUP, "open_transport"
)
_RESULTS = _Kind("result store", BUILT_IN_RESULTS, BUILT_IN_RESULT_FAMILIES, RESULTS_GROUP, "open_results")


def open_transport(url: str, options: Mapping[str, Any] | None = None) -> Transport:
    """Open the broker that a URL names.

    :param url: one URL, or a failover list separated by ``;``.
    :param options: what the transport understands; see its own factory.
    :raises InvalidUrl: the text is not a URL.
    :raises UnsupportedTransport: no transport is registered for its scheme.
    """
    factory = _factory(url, _TRANSPORT)
    return cast(Transport, factory(url, options if options is not None else {}))


def open_results(url: str, options: Mapping[str, Any] | None = None) -> ResultStore:
    """Open the result store that a URL names. Parameters and errors as in `open_transport`."""
    factory = _factory(url, _RESULTS)
    return cast(ResultStore, factory(url, options if options is not None else {}))


def preload(
    broker_url: str,
    results_url: str | None,
    *,
    broker_options: Mapping[str, Any] | None = None,
    result_options: Mapping[str, Any] | None = None,
) -> None:
    """Import what opening these would import, check their options, and open nothing.

    For a process that others are forked from: what it has imported, they share.

    :raises UnsupportedTransport: nobody provides one of them.
    :raises TransportError: an option has a value that it cannot have.
    :raises InvalidUrl: an address cannot be read.
    """
    _prepare(broker_url, _TRANSPORT, broker_options or {})
    if results_url is not None:
        _prepare(results_url, _RESULTS, result_options or {})


def copies_broadcasts(url: str) -> bool:
    """Whether a worker need only consume a broadcast queue there to get copies of its own: messages reach it
    by a channel. Elsewhere it consumes the queue that `declarations.copy_for` names.

    :raises InvalidUrl: the address cannot be read.
    """
    return BUILT_IN_TRANSPORTS.get(parse_failover(url)[0].scheme) == ".redis"


def options_known(url: str) -> frozenset[str] | None:
    """The options that have an effect on the broker of a URL; None where nobody can tell, as with the bridge.

    :raises InvalidUrl: the address cannot be read.
    :raises UnsupportedTransport: no transport is registered for its scheme.
    """
    factory = _factory(url, _TRANSPORT)
    known = getattr(sys.modules.get(getattr(factory, "__module__", "")), "OPTIONS", None)
    return known if isinstance(known, frozenset) else None


def _prepare(url: str, kind: _Kind, options: Mapping[str, Any]) -> None:
    factory = _factory(url, kind)
    module = sys.modules.get(getattr(factory, "__module__", ""))
    check = getattr(module, "check_options", None)
    if check is not None:
        check(url, options)


def _factory(url: str, kind: _Kind) -> Callable[[str, Mapping[str, Any]], Any]:
    scheme = parse_failover(url)[0].scheme
    module_name = kind.built_in.get(scheme) or _of_family(scheme, kind)
    if module_name is not None:
        module = _imported(module_name, scheme, kind)
        return cast("Callable[[str, Mapping[str, Any]], Any]", getattr(module, kind.factory))
    installed = importlib.import_module(".plugins", __package__).installed(kind.group)
    if scheme in installed:
        return cast("Callable[[str, Mapping[str, Any]], Any]", installed[scheme].load())
    if kind is _TRANSPORT:
        bridge = importlib.import_module(".kombu", __package__)
        if bridge.knows(scheme):
            return cast("Callable[[str, Mapping[str, Any]], Any]", bridge.open_transport)
    known = tuple(sorted({*kind.built_in, *(f"{prefix}*" for prefix in kind.families), *installed}))
    raise UnsupportedTransport(
        scheme,
        known,
        f"no {kind.name} is registered for {scheme}:// (known: {', '.join(known)}); "
        f"correct the URL, or install the package that provides it as an entry point of {kind.group!r}",
    )


def _imported(module_name: str, scheme: str, kind: _Kind) -> Any:
    try:
        return importlib.import_module(module_name, __package__)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        raise UnsupportedTransport(
            scheme,
            tuple(sorted(kind.built_in)),
            f"{scheme}:// needs the package {error.name}, which is not installed; "
            f"install it with: pip install 'prefork[{extra}]'",
        ) from error


def _of_family(scheme: str, kind: _Kind) -> str | None:
    for prefix, module_name in kind.families.items():
        if scheme.startswith(prefix):
            return module_name
    return None
