"""Connections for whoever has many threads, or one: a client, the agent, a result store.

An operation has one total deadline, over the wait for a free connection, connecting and the command.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from weakref import WeakSet

from ..errors import BrokerUnavailable
from .link import Link
from .settings import RedisSettings


class Lease:
    """A link of a pool for the length of a ``with`` block; its operations end by the deadline."""

    __slots__ = ("_deadline_s", "_link", "_pool")

    def __init__(self, pool: Pool, deadline_s: float) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._link: Link | None = None

    def __enter__(self) -> Link:
        ends_mono_s = time.monotonic() + self._deadline_s
        link = self._link = self._pool.take(ends_mono_s)
        link.bound(ends_mono_s)
        return link

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._pool.give(link)


class Pool:
    """Bounded and thread-safe. After a fork the child opens its own connections.

    :param name: shown by ``CLIENT LIST``.
    """

    def __init__(self, settings: RedisSettings, *, name: str = "") -> None:
        self.settings = settings
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        # Appended and popped by any thread: both are atomic, and the usual case takes no lock.
        self._idle: list[Link] = []
        # A link that an exception lost on its way (a time limit may strike anywhere) leaves by itself.
        self._all: WeakSet[Link] = WeakSet()
        self._home = object()  # what is given back without it belongs to a time before `close`, or a fork
        self._waiting = 0  # written under the lock

    def link(self, deadline_s: float | None = None) -> Lease:
        """A connection for the length of a ``with`` block.

        :param deadline_s: of everything in the block; None means ``publish_deadline_s``.
        :raises BrokerUnavailable: by the block's beginning, when none is free in time.
        """
        return Lease(self, self.settings.publish_deadline_s if deadline_s is None else deadline_s)

    def take(self, ends_mono_s: float) -> Link:
        """A link until `give`; prefer `link`.

        :raises BrokerUnavailable: none was free in time.
        """
        if self._pid != os.getpid():
            self._forget_parent()
        try:
            return self._idle.pop()
        except IndexError:
            return self._wait(ends_mono_s)

    def _wait(self, ends_mono_s: float) -> Link:
        began_mono_s = time.monotonic()
        with self._changed:
            # First counted, then looked: `give` first adds, then asks whether anybody waits.
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        try:
                            return self._idle.pop()
                        except IndexError:
                            continue  # somebody without the lock was faster
                    if len(self._all) < self.settings.max_connections:
                        link = Link(self.settings, name=self._name)
                        link.home = self._home
                        self._all.add(link)
                        return link
                    left_s = ends_mono_s - time.monotonic()
                    if left_s <= 0.0:
                        raise self._none_free(time.monotonic() - began_mono_s)
                    self._changed.wait(left_s)
            finally:
                self._waiting -= 1

    def _none_free(self, waited_s: float) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"all {self.settings.max_connections} connections to redis at {self.settings.shown} were in use "
            f"for {waited_s:.3g} s; raise max_connections (broker_pool_limit), or send from fewer threads"
        )

    def give(self, link: Link) -> None:
        """Take back what `take` gave."""
        link.bound(0.0)
        if link.home is not self._home or not self.settings.keep_connections or self._pid != os.getpid():
            link.close()
            self._all.discard(link)
        else:
            self._idle.append(link)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _forget_parent(self) -> None:
        """In a child: the parent's connections are closed here, without a good-bye, and new ones made."""
        inherited = list(self._all)
        self._reset()
        for link in inherited:
            link.close()

    def close(self) -> None:
        """Close what is idle, and what is in use once it is given back. Safe to call twice."""
        with self._changed:
            idle, self._idle = self._idle, []
            self._all = WeakSet()
            self._home = object()
            self._changed.notify_all()
        for link in idle:
            link.close()
