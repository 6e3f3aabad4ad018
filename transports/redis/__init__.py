"""The Redis broker and its result store: Celery's lists and documents, and our own leases beside them.

URLs: ``redis://``, ``rediss://`` (TLS), ``redis+socket://`` and ``sentinel://``; a failover list is
separated by ``;``. Options are kombu's for Redis (docs/reference/transports.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results import RedisResults
from .settings import OPTIONS, read_settings
from .transport import RedisTransport

__all__ = ["OPTIONS", "RedisResults", "RedisTransport", "check_options", "open_results", "open_transport"]


def check_options(url: str, options: Mapping[str, Any]) -> None:
    """Raise what opening either of them would raise. Connects to nothing.

    :raises InvalidUrl: the address cannot be read.
    :raises InvalidOption: an option has a value that it cannot have.
    """
    read_settings(url, options)


def open_transport(url: str, options: Mapping[str, Any]) -> RedisTransport:
    """Open the broker of a URL; connects on first use.

    :param options: kombu's ``transport_options`` for Redis, and ``declarations``.
    :raises InvalidUrl: the address cannot be read.
    :raises InvalidOption: an option has a value that it cannot have.
    """
    return RedisTransport(read_settings(url, options), options.get("declarations"))


def open_results(url: str, options: Mapping[str, Any]) -> RedisResults:
    """Open the result store of a URL; connects on first use. Parameters and errors as above.

    :param options: ``global_keyprefix`` is that of the results; the names of settings of the form
        ``result_backend_*`` say how often a failed operation is repeated.
    """
    return RedisResults(read_settings(url, options))
