"""Opens a broker or a result store by the scheme of its URL.

The built-in schemes are a closed table of modules, imported on first use; others come from the entry
points `prefork.transports` and `prefork.results`. Both kinds are factories of the signature
``(url: str, options: Mapping[str, Any])``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from .base import ResultStore, Transport
from .errors import UnsupportedTransport
from .url import parse_failover

TRANSPORT_GROUP = "prefork.transports"
RESULTS_GROUP = "prefork.results"

BUILT_IN_TRANSPORTS: Mapping[str, str] = MappingProxyType(
    {
        "filesystem": ".filesystem",
        "memory": ".memory",
    }
)
BUILT_IN_RESULTS: Mapping[str, str] = MappingProxyType(
    {
        "file": ".filesystem",
        "filesystem": ".filesystem",
        "memory": ".memory",
    }
)


def open_transport(url: str, options: Mapping[str, Any] | None = None) -> Transport:
    """Open the broker that a URL names.

    :param url: one URL, or a failover list separated by ``;``.
    :param options: what the transport understands; see its own factory.
    :raises InvalidUrl: the text is not a URL.
    :raises UnsupportedTransport: no transport is registered for its scheme.
    """
    factory = _factory(url, "transport", BUILT_IN_TRANSPORTS, TRANSPORT_GROUP, "open_transport")
    return cast(Transport, factory(url, options if options is not None else {}))


def open_results(url: str, options: Mapping[str, Any] | None = None) -> ResultStore:
    """Open the result store that a URL names. Parameters and errors as in `open_transport`."""
    factory = _factory(url, "result store", BUILT_IN_RESULTS, RESULTS_GROUP, "open_results")
    return cast(ResultStore, factory(url, options if options is not None else {}))


def preload(broker_url: str, results_url: str | None) -> None:
    """Import what opening these would import, and open nothing.

    For a process that others are forked from: what it has imported, they share.

    :raises UnsupportedTransport: nobody provides one of them.
    """
    _factory(broker_url, "transport", BUILT_IN_TRANSPORTS, TRANSPORT_GROUP, "open_transport")
    if results_url is not None:
        _factory(results_url, "result store", BUILT_IN_RESULTS, RESULTS_GROUP, "open_results")


def _factory(
    url: str, kind: str, built_in: Mapping[str, str], group: str, name: str
) -> Callable[[str, Mapping[str, Any]], Any]:
    scheme = parse_failover(url)[0].scheme
    module_name = built_in.get(scheme)
    if module_name is not None:
        module = importlib.import_module(module_name, __package__)
        return cast("Callable[[str, Mapping[str, Any]], Any]", getattr(module, name))
    installed = importlib.import_module(".plugins", __package__).installed(group)
    if scheme in installed:
        return cast("Callable[[str, Mapping[str, Any]], Any]", installed[scheme].load())
    known = tuple(sorted({*built_in, *installed}))
    raise UnsupportedTransport(
        scheme,
        known,
        f"no {kind} is registered for {scheme}:// (known: {', '.join(known)}); "
        f"correct the URL, or install the package that provides it as an entry point of {group!r}",
    )
