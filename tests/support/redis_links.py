"""Links to Redis that are closed when the test ends, and what becomes of commands that a server refuses."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.transports.errors import TransportError
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings

# For a primary that copies itself as soon as one replica asks, without waiting for others.
AT_ONCE = {"repl-diskless-sync-delay": 0}

_opened: list[Link] = []


def link_to(url: str, **options: Any) -> Link:
    """A link that is closed when the test ends, where the fixture ``links_closed_afterwards`` is used."""
    link = Link(read_settings(url, {"socket_timeout": 2.0, **options}))
    _opened.append(link)
    return link


def close_links() -> None:
    """Close every link that `link_to` has made."""
    while _opened:
        _opened.pop().close()


def refused(link: Link, *command: Any) -> TransportError:
    """The error with which a command ends."""
    with pytest.raises(TransportError) as caught:
        link.call(*command)
    return caught.value
