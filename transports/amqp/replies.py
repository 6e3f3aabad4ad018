"""The queue of replies of one process, and what has come through it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from time import monotonic
from typing import Any, NamedTuple

from ..errors import BrokerUnavailable
from ..identifiers import fresh_id
from ..result_state import is_final
from .codec import Undecodable, decode_properties
from .frames import CANCEL, DELIVER, Method, ack_frame, consume_frame, read_arrival
from .link import CHANNEL_ERRORS, Link
from .settings import AmqpSettings

KEPT_S = 86400.0
"""How long replies are kept when nothing else is said."""

_CONSUMER_TAG = "replies"

_log = logging.getLogger("prefork.amqp")


class _Reply(NamedTuple):
    document: bytes
    final: bool
    came_mono_s: float


class Replies:
    """What came for the calls of this process. Safe to use from several threads.

    The queue outlives its connection, so that replies wait while the broker is reached again; it goes
    when nobody has used it for as long as results live.

    :param expires_s: how long that is, in seconds.
    """

    def __init__(self, settings: AmqpSettings, expires_s: float | None) -> None:
        self._settings = settings
        self._expires_s = expires_s or KEPT_S
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._link = Link(self._settings, "replies")
        self._mutex = threading.Lock()
        # Written under the lock of the link.
        self._name = fresh_id()
        self._declared = False
        self._closed = False
        self._channel: Any = None
        self._generation = -1
        self._unacknowledged = 0
        # Written under _mutex; the newest reply of each task, oldest first.
        self._came: dict[str, _Reply] = {}

    @property
    def listening(self) -> bool:
        """Whether somebody in this process has called."""
        return self._declared and self._pid == os.getpid()

    def listen(self) -> str:
        """The name of the queue, which exists when this returns.

        :raises BrokerUnavailable: it cannot be declared.
        """
        if self._pid != os.getpid():
            self._link.renew_after_fork()
            self._begin()  # the calls of the parent are not ours
        if not self._declared:
            # Not at each call: who reads holds this lock while he waits.
            with self._link.lock:
                self._ready()
                self._declared = True
        return self._name

    def read(self, timeout_s: float) -> None:
        """Read what has come; wait for something unless the time is 0.

        :raises BrokerUnavailable: the broker cannot be reached.
        """
        if not self.listening:
            return
        with self._link.lock:
            if self._closed:
                return  # meanwhile, by another thread: nothing is to be declared anew
            wire = self._ready()
            with self._link.guarded("waiting for results"):
                try:
                    wire.pump(timeout_s)
                except CHANNEL_ERRORS as error:
                    self._channel = None
                    raise BrokerUnavailable(f"RabbitMQ refused the queue of replies: {error}") from error
                if self._unacknowledged and self._channel is not None:
                    done = ack_frame(int(self._channel.channel_id), self._unacknowledged, multiple=True)
                    wire.write(done, self._settings.publish_timeout_s)
                    self._unacknowledged = 0

    def newest(self, key: str) -> bytes | None:
        """The newest reply of a task."""
        with self._mutex:
            reply = self._came.get(key)
        return None if reply is None else reply.document

    def final(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The final replies among those of these tasks."""
        with self._mutex:
            found = {key: self._came[key] for key in keys if key in self._came}
        return {key: reply.document for key, reply in found.items() if reply.final}

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the replies of tasks."""
        with self._mutex:
            for key in keys:
                self._came.pop(key, None)

    def expire(self, limit: int) -> int:
        """Drop replies that are too old; returns how many."""
        oldest_mono_s = monotonic() - self._expires_s
        dropped = 0
        with self._mutex:
            while dropped < limit and self._came:
                key = next(iter(self._came))
                if self._came[key].came_mono_s > oldest_mono_s:
                    break
                del self._came[key]
                dropped += 1
        return dropped

    def close(self) -> None:
        """Delete the queue and close the connection. Safe to call twice."""
        if self._pid != os.getpid():
            return
        with self._link.lock:
            self._closed = True
            channel, self._channel = self._channel, None
            if channel is not None and self._link.current() is not None:
                try:
                    with self._link.guarded("closing"):
                        channel.queue_delete(self._name)
                except (BrokerUnavailable, *CHANNEL_ERRORS) as error:
                    _log.debug("the queue of replies is left to expire: %s", error)
            self._link.close()

    # --- below, the lock of the link is held ----------------------------------------------------------

    def _ready(self) -> Any:
        """The connection, with the queue declared and its messages on their way here."""
        wire = self._link.wire(monotonic() + self._settings.publish_timeout_s)
        if self._channel is not None and self._generation == self._link.generation:
            return wire
        with self._link.guarded("declaring the queue of replies"):
            try:
                channel = wire.channel()
                arguments = {"x-queue-type": "classic", "x-expires": max(1, int(self._expires_s * 1000))}
                channel.queue_declare(self._name, durable=True, auto_delete=False, arguments=arguments)
            except CHANNEL_ERRORS as error:
                raise BrokerUnavailable(f"RabbitMQ refused the queue of replies: {error}") from error
            channel_id = int(channel.channel_id)
            wire.take(channel_id, self._on_content, self._on_method)
            wire.write(consume_frame(channel_id, self._name, _CONSUMER_TAG), self._settings.publish_timeout_s)
        self._channel, self._generation, self._unacknowledged = channel, self._link.generation, 0
        return wire

    def _on_content(self, method: Method, arguments: bytes, header: bytes, body: bytes) -> None:
        if method != DELIVER:
            return
        self._unacknowledged = read_arrival(method, arguments).delivery_tag
        try:
            properties = decode_properties(header, 12)
        except Undecodable as error:
            _log.error("a reply has damaged properties: %s", error)
            return
        key = properties.get("correlation_id")
        if isinstance(key, str) and key:
            self._keep(key, _Reply(body, is_final(body), monotonic()))

    def _keep(self, key: str, reply: _Reply) -> None:
        """Keep the newest; nothing comes after a final one but what was sent twice."""
        with self._mutex:
            earlier = self._came.get(key)
            if earlier is None or not earlier.final or reply.final:
                self._came.pop(key, None)
                self._came[key] = reply
        self.expire(2)  # so that replies that nobody fetches do not pile up

    def _on_method(self, method: Method, payload: bytes) -> bool:
        if method != CANCEL:
            return False
        if self._channel is None:
            return True  # it is being closed
        _log.warning("RabbitMQ cancelled the consumer of replies: its queue was deleted or moved")
        self._channel = None  # declared again at the next look
        return True
