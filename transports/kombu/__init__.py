"""Every transport of kombu, through one bridge, with the guarantees that it gives.

URL: ``kombu+SCHEME://...``, or the plain URL of a scheme that only kombu has, such as ``sqs://``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .address import known_schemes, knows, read_address
from .line import check_library
from .transport import KombuTransport

__all__ = ["KombuTransport", "known_schemes", "knows", "open_transport"]


def open_transport(url: str, options: Mapping[str, Any]) -> KombuTransport:
    """Open the broker of a URL. Connects to nothing; the first use does.

    :param options: those of kombu's transport; and ``polling_interval`` (seconds between looks).
    :raises UnsupportedTransport: kombu does not have it, or a package that it needs is missing.
    """
    address = read_address(url, options)
    check_library(address)
    return KombuTransport(address)
