"""Results in the tables that Celery keeps in a relational database, through SQLAlchemy.

URL: ``db+<SQLAlchemy URL>``, for example ``db+postgresql://user@host/name`` or
``db+sqlite:////var/lib/shop/results.db`` (interop §8.7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results import DatabaseResults
from .settings import DatabaseSettings, read_settings, require_driver

__all__ = ["DatabaseResults", "DatabaseSettings", "check_options", "open_results", "read_settings"]


def check_options(url: str, options: Mapping[str, Any]) -> None:
    """Refuse what `open_results` would refuse; connects to nothing."""
    require_driver(read_settings(url, options).url)


def open_results(url: str, options: Mapping[str, Any]) -> DatabaseResults:
    """Open the result store of a URL. Connects to nothing; the first use does.

    :param options: see `read_settings`.
    :raises InvalidUrl: the URL names no database that several threads could share.
    :raises InvalidOption: the driver has no use for an engine option.
    :raises UnsupportedTransport: the driver that the URL names is not installed, or documents of the
        configured serializer cannot be taken apart.
    """
    return DatabaseResults(read_settings(url, options))
