"""The memory transport and its result store: the reference implementation of both ports.

URL: ``memory://name``. It serves one process (`Capabilities.several_processes` is false); whoever
forks gets an error from it in the child.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..url import parse
from .results import MemoryResults
from .transport import DEFAULT_LEASE_S, MemoryTransport

__all__ = ["MemoryResults", "MemoryTransport", "open_results", "open_transport"]

OPTIONS = frozenset({"lease_s"})
"""Options that have an effect here."""


def open_transport(url: str, options: Mapping[str, Any]) -> MemoryTransport:
    """Open the broker ``memory://name``.

    :param options: ``lease_s``, the first lease of a worker in seconds; others have no meaning here.
    """
    return MemoryTransport(_name(url), lease_s=float(options.get("lease_s", DEFAULT_LEASE_S)))


def open_results(url: str, options: Mapping[str, Any]) -> MemoryResults:
    """Open the result store beside the broker ``memory://name``; no option has a meaning here."""
    return MemoryResults(_name(url))


def _name(url: str) -> str:
    parsed = parse(url)
    return (parsed.host + parsed.path).strip("/")
