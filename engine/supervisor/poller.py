"""The supervisor's one wait: everything that can happen, each with who it happened to."""

from __future__ import annotations

import enum
import select
from typing import Any, NamedTuple


class Kind(enum.Enum):
    """What a descriptor stands for."""

    SIGNAL = "signal"
    DOORBELL = "doorbell"
    CHILD = "child"
    TEMPLATE = "template"
    TEMPLATE_CHANNEL = "template channel"
    AGENT = "agent"
    AGENT_CHANNEL = "agent channel"
    HOST = "host"
    NOTIFY = "notify"
    CONTROL = "control"
    CONTROL_CLIENT = "control client"


class Source(NamedTuple):
    """Who is behind a descriptor."""

    kind: Kind
    owner: Any = None


class Poller:
    """epoll with a `Source` for each descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}

    def add(self, fd: int, source: Source, events: int = select.EPOLLIN) -> None:
        """Watch a descriptor."""
        self._epoll.register(fd, events)
        self._sources[fd] = source

    def change(self, fd: int, events: int) -> None:
        """Wait for other events on a descriptor."""
        self._epoll.modify(fd, events)

    def remove_kind(self, kind: Kind) -> None:
        """Stop watching everything of a kind."""
        for fd in [fd for fd, source in self._sources.items() if source.kind is kind]:
            self.remove(fd)

    def remove(self, fd: int) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        if self._sources.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float) -> list[tuple[Source, int]]:
        """What has happened, with the epoll events; empty when the time is over.

        A descriptor that was removed while earlier ones of the same list were handled is still
        in it: whoever handles it looks whether its owner is still the one it knows.
        """
        ready = self._epoll.poll(max(0.0, timeout_s))
        return [(self._sources[fd], events) for fd, events in ready if fd in self._sources]

    def __len__(self) -> int:
        return len(self._sources)
