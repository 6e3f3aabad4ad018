"""Every transport of kombu, through one bridge, with the guarantees that it gives.

URL: ``kombu+SCHEME://...``, or the plain URL of a scheme that only kombu has, such as ``sqs://``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedTransport
from .address import known_schemes, knows, read_address
from .line import check_library
from .transport import KombuTransport

__all__ = ["KombuTransport", "check_options", "known_schemes", "knows", "open_transport"]


def open_transport(url: str, options: Mapping[str, Any]) -> KombuTransport:
    """Open the broker of a URL. Connects to nothing; the first use does.

    :param options: those of kombu's transport; and ``polling_interval`` (seconds between looks).
    :raises UnsupportedTransport: kombu does not have it, or a package that it needs is missing.
    """
    address = read_address(url, options)
    check_library(address)
    return KombuTransport(address)


def check_options(url: str, options: Mapping[str, Any]) -> None:
    """Refuse what a pool of processes could not work with; connects to nothing.

    :raises UnsupportedTransport: as in `open_transport`; or one process alone can use the broker.
    """
    address = read_address(url, options)
    check_library(address)
    if address.local:
        raise UnsupportedTransport(
            address.scheme,
            known_schemes(),
            f"{address.shown} passes messages between the threads of one process only, and a pool of "
            "processes would wait for ever; use filesystem://, a broker with a server, or -P solo",
        )
