"""A channel for short dialogues with the broker: everything is written at once, then all answers are read.

What workers agree on (turns, tables, slots, revocations) is made of these. Everything here belongs to
the thread that holds the lock of the link.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

from ..errors import BrokerUnavailable
from .errors import refused
from .frames import (
    CANCEL,
    DECLARE_OK,
    GET_EMPTY,
    GET_OK,
    Method,
    ack_frame,
    cancel_frame,
    consume_frame,
    declare_frame,
    get_frame,
    read_arrival,
    read_consumer_tag,
    read_counts,
    requeue_frame,
)
from .link import CHANNEL_ERRORS, CONNECTION_ERRORS, Link
from .settings import AmqpSettings
from .wire import Wire

HEARTBEAT_S = 30
IDLE_S = 20.0
"""A connection with heartbeats that nobody uses is closed after so long: nobody would send them."""


class Counts(NamedTuple):
    """The answer to a declaration."""

    messages: int
    consumers: int


class Got(NamedTuple):
    """The answer to a get: a message, or none (tag 0).

    :param left: how many more there are.
    """

    tag: int
    body: bytes = b""
    left: int = 0


Answer = Counts | Got


class Session:
    """One connection with one channel, opened on use. It never publishes, so that no alarm stops it.

    :param beats: the broker may end the connection when this side falls silent; for what nobody may
        hold for longer than that. It is closed here when it has not been used for a while.
    :param idle_s: for how long.
    :ivar generation: counts channels; what was done on another one is void.
    :ivar cancelled: tags of consumers that the broker has ended by itself.
    """

    def __init__(self, settings: AmqpSettings, purpose: str, *, beats: bool, idle_s: float = IDLE_S) -> None:
        self.link = Link(settings, purpose, heartbeat_s=HEARTBEAT_S if beats else 0)
        self.generation = 0
        self.cancelled: set[str] = set()
        self._settings = settings
        self._beats = beats
        self._idle_s = idle_s
        self._channel: Any = None
        self._link_generation = -1
        self._answers: list[Answer] = []
        self._timer: threading.Timer | None = None
        self._used_mono_s = 0.0

    @property
    def is_current(self) -> bool:
        """Whether the channel is there, as far as is known."""
        return (
            self.link.is_open and self._channel is not None and self._link_generation == self.link.generation
        )

    @contextmanager
    def use(self) -> Iterator[float]:
        """Hold the lock; gives the monotonic time at which everything must be over.

        :raises BrokerUnavailable: another thread holds it for too long, or the broker is away.
        """
        timeout_s = self._settings.publish_timeout_s
        end_mono_s = monotonic() + timeout_s
        self.link.renew_after_fork()
        lock = self.link.lock
        if not lock.acquire(timeout=timeout_s):
            raise BrokerUnavailable(
                f"RabbitMQ did not answer another thread of this process within {timeout_s:g} s"
            )
        try:
            self._notice()
            self._open(end_mono_s)
            yield end_mono_s
        finally:
            self._used_mono_s = monotonic()
            lock.release()

    def ask(self, frames: Sequence[bytes], answers: int, end_mono_s: float) -> list[Answer]:
        """Write frames; wait for so many answers.

        :raises BrokerUnavailable: they did not come in time; the connection is given up.
        :raises Refused: the broker will not have it.
        """
        with self._doing():
            wire = self.link.wire(end_mono_s)
            self._answers.clear()
            wire.write(b"".join(frames), end_mono_s - monotonic())
            while len(self._answers) < answers:
                left_s = end_mono_s - monotonic()
                if left_s <= 0 or not wire.pump(left_s):
                    raise TimeoutError("no answer of the broker in time")
            found, self._answers = self._answers, []
            return found

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self.link.renew_after_fork()
        with self.link.lock:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            self._channel = None
            self.link.close()

    # --- frames, for `ask` -------------------------------------------------------------------------

    def declare(self, queue: str, arguments: Mapping[str, Any], *, wait: bool = True) -> bytes:
        """Declare a durable queue; answers with `Counts` if it waits."""
        return declare_frame(self._id, queue, arguments, wait=wait)

    def get(self, queue: str) -> bytes:
        """Take a message; answers with `Got`."""
        return get_frame(self._id, queue)

    def consume(self, queue: str, tag: str) -> bytes:
        """Be a consumer of a queue. No answer."""
        return consume_frame(self._id, queue, tag, no_ack=True)

    def cancel(self, tag: str) -> bytes:
        """Be a consumer no more. No answer."""
        return cancel_frame(self._id, tag)

    def acknowledge(self, tag: int) -> bytes:
        """Drop what was taken, up to this. No answer."""
        return ack_frame(self._id, tag, multiple=True)

    def put_back(self, tag: int) -> bytes:
        """Return what was taken, up to this, to where it was. No answer."""
        return requeue_frame(self._id, tag, multiple=True)

    # --- below, the lock is held --------------------------------------------------------------------

    @property
    def _id(self) -> int:
        return int(self._channel.channel_id)

    @contextmanager
    def _doing(self) -> Iterator[None]:
        try:
            with self.link.guarded("asking what workers agreed on", outcome_unknown=True):
                yield
        except CHANNEL_ERRORS as error:
            self.link.drop()
            raise refused("what workers agree by", error.code, str(error.reply_text)) from error

    def _notice(self) -> None:
        """Learn of a connection that has ended since; another is made."""
        wire = self.link.current()
        if wire is None or not self.is_current:
            return
        try:
            wire.pump(0)
        except (*CONNECTION_ERRORS, *CHANNEL_ERRORS):
            self.link.drop()

    def _open(self, end_mono_s: float) -> None:
        wire: Wire = self.link.wire(end_mono_s)
        if self.is_current:
            return
        with self._doing():
            wire.end_mono_s = end_mono_s
            try:
                self._channel = wire.channel()
            finally:
                wire.end_mono_s = None
        self._answers.clear()
        self.cancelled.clear()
        wire.take(self._id, self._on_content, self._on_method)
        self._link_generation = self.link.generation
        self.generation += 1
        if self._beats:
            self._close_later(self._idle_s)

    def _close_later(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(after_s, self._close_if_idle, (os.getpid(),))
        self._timer.daemon = True
        self._timer.start()

    def _close_if_idle(self, pid: int) -> None:
        """Called by the timer, in a thread of its own."""
        if pid != os.getpid():
            return
        with self.link.lock:
            if self._timer is None:
                return
            left_s = self._used_mono_s + self._idle_s - monotonic()
            if left_s > 0:
                self._close_later(left_s)
                return
            self._timer = None
            self._channel = None
            self.link.close()

    def _on_content(self, method: Method, arguments: bytes, _header: bytes, body: bytes) -> None:
        if method == GET_OK:
            arrival = read_arrival(method, arguments)
            self._answers.append(Got(arrival.delivery_tag, body, arrival.left))

    def _on_method(self, method: Method, payload: bytes) -> bool:
        if method == DECLARE_OK:
            self._answers.append(Counts(*read_counts(payload)))
        elif method == GET_EMPTY:
            self._answers.append(Got(0))
        elif method == CANCEL:
            self.cancelled.add(read_consumer_tag(payload))
        else:
            return False
        return True
