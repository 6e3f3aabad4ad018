"""Memory brokers by name: everybody in one process who says ``memory://name`` means the same one."""

from __future__ import annotations

import os

from .broker import MemoryBroker


class NamedBrokers:
    """The brokers of this process. A forked child starts with none of its parent's."""

    def __init__(self) -> None:
        self._brokers: dict[tuple[int, str], MemoryBroker] = {}

    def get(self, name: str) -> MemoryBroker:
        """The broker of a name, made on first use.

        No lock: one could be held by another thread at the moment of a fork, and never be released
        in the child. `dict.setdefault` alone decides who made the broker.
        """
        return self._brokers.setdefault((os.getpid(), name), MemoryBroker(name))

    def forget(self, name: str) -> None:
        """Drop a broker and what is in it; whoever holds it keeps it."""
        self._brokers.pop((os.getpid(), name), None)


# The one registry of the process: a name is only worth something if all who use it share it.
_named = NamedBrokers()


def shared_broker(name: str) -> MemoryBroker:
    """The broker that this process knows under a name."""
    return _named.get(name)


def forget_broker(name: str) -> None:
    """Drop what this process knows under a name: tests that make brokers by the thousand clean up."""
    _named.forget(name)
