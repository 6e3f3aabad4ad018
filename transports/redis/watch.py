"""Says without polling that a list has changed: server-assisted invalidation, in its default mode.

`EXISTS` over all keys of interest answers whether something waits, and makes the server remember to
tell this connection once when any of them changes. Nobody else's keys cost anything: the mode that
announces prefixes would report every ``celery-task-meta-*`` to a worker of the queue ``celery``.

The descriptor that is polled is an epoll of the connection and of a timer, so it outlives
connections, and no thread is needed to reconnect, to check on a silent server, or to poll one that
refuses tracking.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

import hiredis

from ..errors import TransportError
from ..timed_poll import TimedPoll
from .faults import CommandRefused, ServerError, pause_before_reconnect_s
from .link import Link
from .settings import RedisSettings
from .tracking import TrackedConnection
from .wire import pack

_log = logging.getLogger(__name__)

HEALTH_S = 5.0
"""How long a silent connection is trusted."""
_ANSWER_S = 2.0
_POLL_FIRST_S = 0.01
_POLL_LAST_S = 0.5
_FRESH_S = 0.002
_TELLS = (b"invalidate", b"tracking-redir-broken")


class Listener(Protocol):
    """What is done with the messages of fanout exchanges."""

    @property
    def patterns(self) -> Sequence[bytes]:
        """The channels to listen to."""

    def receive(self, pattern: bytes, document: bytes) -> None:
        """Keep a message; raises TransportError when it cannot."""


class RedisWatch:
    """Implements `transports.base.Watch` and `Counts`. Used by one thread.

    :param lists: the lists whose length is what waits.
    :param others: further keys whose changes are of interest, such as schedules.
    :param listener: takes what is published on its channels; None listens to nothing.
    """

    def __init__(
        self,
        settings: RedisSettings,
        lists: Sequence[bytes],
        others: Sequence[bytes] = (),
        *,
        listener: Listener | None = None,
    ) -> None:
        self._settings = settings
        self._link = Link(settings, name=f"{settings.client_name or 'prefork'}-watch")
        self._listener = listener
        self._look = pack((b"EXISTS", *lists, *others)) if lists or others else pack((b"PING",))
        self._count = b"".join(pack((b"LLEN", name)) for name in lists)
        self._count_n = len(lists)
        self._answer_s = min(settings.socket_timeout_s, _ANSWER_S)
        self._connection: TrackedConnection | None = None
        self._tracks = False
        self._poll_s = _POLL_FIRST_S
        self._failures = 0
        self._said: set[str] = set()
        self._deaf = False  # the last broadcast could not be kept, and that was said
        self._waiting: int | None = None
        self._drained_mono_s = 0.0
        self._poll = TimedPoll()
        self._timer = self._poll.timer
        self._attempt()

    def fileno(self) -> int:
        """The descriptor, as in `Watch.fileno`."""
        return self._poll.fileno()

    @property
    def tracks(self) -> bool:
        """Whether the server tells of changes, as opposed to being asked again and again."""
        return self._connection is not None and self._tracks

    def waiting(self) -> int | None:
        """How many messages wait, as in `Counts.waiting`."""
        if self._waiting is None or not self.tracks:
            return None
        if monotonic() - self._drained_mono_s < _FRESH_S or not self._poll.fires():
            return self._waiting
        return None

    def drain(self) -> None:
        """Look again, and forget what fired so far, as in `Watch.drain`. Never raises.

        Without a connection it tries to connect, and fires again after a pause if that fails.
        """
        if self._poll.closed:
            return
        told = not self._timer.clear()
        if self._connection is None:
            self._attempt()
            return
        try:
            self._hear(self._connection.pushes(self._answer_s))
            self._arm(self._connection, counting=told)
        except (OSError, hiredis.HiredisError, TransportError) as error:
            self._lost(error)

    def close(self) -> None:
        """Release everything, as in `Watch.close`."""
        self._drop()
        self._poll.close()

    # -- the connection -----------------------------------------------------------------------

    def _attempt(self) -> None:
        """Connect and arm, or see to it that it is tried again."""
        try:
            connection = self._connect()
            self._connection = connection
            self._poll.watch(connection.fileno())
            self._arm(connection, counting=True)
        except (OSError, hiredis.HiredisError, TransportError) as error:
            self._lost(error)
            return
        if self._failures:
            _log.warning("redis at %s: queues are watched again", connection.where)
        self._failures = 0

    def _connect(self) -> TrackedConnection:
        try:
            connection = TrackedConnection(self._link.connection(protocol=3))
        except CommandRefused as error:
            self._fall_back(str(error))
            return TrackedConnection(self._link.connection(protocol=2))
        try:
            reply = connection.ask(pack((b"CLIENT", b"TRACKING", b"ON")), 1, self._answer_s).replies[0]
            self._tracks = not isinstance(reply, ServerError)
            if isinstance(reply, ServerError):
                self._fall_back(f"redis at {connection.where} refused CLIENT TRACKING: {reply.text}")
            self._subscribe(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _fall_back(self, why: str) -> None:
        self._tracks = False
        self._say_once(
            "tracking",
            f"{why}; queues are polled instead, up to {_POLL_LAST_S} s apart. Give the user the command "
            "CLIENT TRACKING (and HELLO), or connect without the proxy",
        )

    def _subscribe(self, connection: TrackedConnection) -> None:
        patterns = self._listener.patterns if self._listener is not None else ()
        if not patterns:
            return
        # A subscription is confirmed by pushes, a refusal is a reply, and PING is answered in any case.
        packed = pack((b"PSUBSCRIBE", *patterns)) + pack((b"PING",))
        reply = connection.ask(packed, 1, self._answer_s).replies[0]
        if isinstance(reply, ServerError):
            connection.ask(b"", 1, self._answer_s)
            self._say_once(
                "fanout",
                f"redis at {connection.where} refused PSUBSCRIBE, so broadcasts are lost: {reply.text}",
            )

    def _lost(self, error: Exception) -> None:
        """Throw the connection away, and try again after a pause."""
        self._drop()
        self._failures += 1
        if self._failures == 1:
            _log.warning("%s: cannot watch queues: %s; trying again", self._settings.shown, error)
        self._timer.after(pause_before_reconnect_s(self._failures, random.random()))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._waiting = None
        if connection is not None:
            self._poll.unwatch()
            connection.close()

    # -- looking ------------------------------------------------------------------------------

    def _arm(self, connection: TrackedConnection, *, counting: bool) -> None:
        """Ask to be told of the next change, and see what is there.

        :param counting: something seems to have come, so count it in the same round trip.
        """
        counts = self._count_n if counting else 0
        packed = self._look + self._count if counting else self._look
        replies, before = connection.ask(packed, 1 + counts, self._answer_s)
        exists = replies[0]
        if isinstance(exists, ServerError):
            raise ConnectionError(f"the server refused to look at queues: {exists.text}")
        if exists and not counting and self._count_n:
            replies += connection.ask(self._count, self._count_n, self._answer_s).replies
        self._waiting = sum(reply for reply in replies[1:] if isinstance(reply, int))
        self._drained_mono_s = monotonic()
        # What was told after the first reply may be about what that reply has seen already.
        late = self._hear(connection.pushes(self._answer_s), skip=before)
        self._timer.after(0.0 if late else self._pause_s())

    def _pause_s(self) -> float:
        if self._tracks:
            return HEALTH_S
        pause_s = self._poll_s
        self._poll_s = _POLL_FIRST_S if self._waiting else min(2 * pause_s, _POLL_LAST_S)
        return pause_s

    def _hear(self, pushes: Sequence[Any], skip: int = 0) -> bool:
        """Take what the server told; whether a key of ours changed.

        :param skip: so many of them are older than the last look.
        """
        changed = False
        for index, push in enumerate(pushes):
            kind = push[0]
            if kind in _TELLS:
                changed = changed or index >= skip
            elif kind == b"pmessage" and self._listener is not None:
                self._receive(self._listener, push[1], push[3])
                changed = True
        return changed

    def _receive(self, listener: Listener, pattern: bytes, document: bytes) -> None:
        try:
            listener.receive(pattern, document)
        except TransportError as error:
            if not self._deaf:
                _log.error("broadcasts are lost, the first of them on %r: %s", pattern, error)
            self._deaf = True
        else:
            self._deaf = False

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("%s", text)
