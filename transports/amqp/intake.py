"""How one consumer gets messages: asked for in batches while it works, pushed while it idles (or `stream`).

Asking (`basic.get`, a whole batch in one write) holds exactly what was asked for: nothing waits in a
buffer behind a long task, and the read-ahead needs no change of a prefetch count, which RabbitMQ
applies to new consumers only. It costs the broker hardly more than pushing (docs/decisions/0013).
An idle consumer has at most one message pushed from each queue, and sleeps on its socket meanwhile.

Everything here belongs to the thread that holds the lock of the link.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

import amqp

from ..errors import BrokerUnavailable
from .codec import Undecodable
from .documents import may_be_marked
from .errors import DeclarationClash, Refused
from .frames import (
    CANCEL,
    CANCEL_OK,
    CHANNEL_CLOSE,
    DELIVER,
    GET_EMPTY,
    GET_OK,
    Method,
    cancel_frame,
    consume_frame,
    get_frame,
    read_arrival,
    read_close,
    read_consumer_tag,
)
from .inbox import Inbox
from .layouts import PropertiesReader
from .link import CHANNEL_ERRORS, Link
from .received import Received
from .settings import AmqpSettings
from .stream import STREAM_TAG, Stream
from .topology import Topology
from .wire import Wire

HELD_TAG: Final = "held"
_ANSWER_S: Final = 5.0
_SKIP_EMPTY_S: Final = 0.01
_CLASH_RETRY_S: Final = 30.0
_TAG = struct.Struct(">4sQ")

_log = logging.getLogger("prefork.amqp")


class Intake:
    """The channel on which one consumer takes and acknowledges.

    :param on_timeout: called when the broker closes the channel because something was held beyond its
        ``consumer_timeout``, and before it is answered: only then does it give what was held to others.
    :ivar inbox: what has come and was not handed on yet.
    :ivar from_held: what came from the queue of the owner's started suspect.
    """

    def __init__(
        self, settings: AmqpSettings, queues: tuple[str, ...], owner: str, on_timeout: Callable[[], None]
    ) -> None:
        self.link = Link(settings, f"consumer {owner}")
        self.inbox = Inbox()
        self.from_held: deque[Received] = deque()
        self._settings = settings
        self._queues = queues
        self._topology = Topology(settings)
        self._reader = PropertiesReader()
        self.stream = Stream(self._set_prefetch, self._cancel)
        self._prefetch = 0  # of consumers to come
        self._uncancelled = 0
        self._channel: Any = None
        self._generation = 0
        self._epoch = b""
        self._asked: deque[str] = deque()
        self._left: dict[str, int] = {}
        self._empty_since_mono_s: dict[str, float] = {}
        self._listening: dict[str, str] = {}
        self._clashes: dict[str, float] = {}
        self._first = 0
        self._held_queue = ""
        self._existing: set[str] = set()
        self._on_timeout = on_timeout
        self._is_closing = False

    # --- connection -------------------------------------------------------------------------------

    @property
    def is_current(self) -> bool:
        """Whether what was taken last is still held, as far as is known."""
        return self.link.is_open and self._generation == self.link.generation and self._channel is not None

    @property
    def epoch(self) -> bytes:
        """Begins the tags of what is held now; what has another one is not held any more."""
        return self._epoch if self.is_current else b""

    @property
    def channel_id(self) -> int:
        """Number of the channel."""
        return int(self._channel.channel_id)

    def ready(self) -> Wire:
        """The connection, with a channel and the queues declared.

        :raises BrokerUnavailable: not to be had.
        """
        end_mono_s = monotonic() + self._settings.publish_timeout_s
        wire = self.link.wire(end_mono_s)
        if not self.is_current:
            self._open(wire)
        if self._clashes and monotonic() > min(self._clashes.values()):
            self.stop_listening(wire)
            self._declare(wire)
        return wire

    def _open(self, wire: Wire) -> None:
        self.forget()
        self._topology.forget()
        self._channel = wire.channel()
        self._generation = self.link.generation
        self._epoch = os.urandom(4)
        self._is_closing = False
        self.round_trip()
        self._declare(wire)
        wire.take(self.channel_id, self._on_content, self._on_method)

    def _declare(self, wire: Wire) -> None:
        """Declare the queues; one that clashes is left out, and tried again later."""
        self._clashes.clear()
        declaring = wire.channel()
        for queue in self._queues:
            try:
                self._topology.consumed(declaring, queue)
            except (DeclarationClash, Refused) as error:
                # py-amqp has opened the channel again.
                self._clashes[queue] = monotonic() + _CLASH_RETRY_S
                _log.error("queue %r is left out: %s", queue, error)
        declaring.close()
        if self._clashes and len(self._clashes) == len(self._queues):
            raise BrokerUnavailable(f"no queue can be consumed: {', '.join(map(repr, self._queues))}")

    def forget(self) -> None:
        """What was taken is not ours any more: the broker has it back."""
        self.inbox.clear()
        self.from_held.clear()
        self._asked.clear()
        self._left.clear()
        self._listening.clear()
        self.stream.forget()
        self._uncancelled = 0
        self._existing.clear()
        self._held_queue = ""
        self._channel = None

    def notice(self) -> None:
        """Read what has come, to learn of a connection or channel that the broker has closed."""
        wire = self.link.current()
        if wire is None or not self.is_current:
            self.forget()
            return
        try:
            with self.link.guarded("reading"):
                wire.pump(0)
        except CHANNEL_ERRORS as error:
            self.channel_closed(error)
        except BrokerUnavailable as error:
            _log.warning("%s", error)
            self.forget()

    def channel_closed(self, error: BaseException) -> None:
        """The broker closed the channel: it has everything back; start afresh."""
        _log.warning("RabbitMQ closed the channel: %s", error)
        self.link.drop()
        self.forget()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Use the channel within the block.

        :raises BrokerUnavailable: connection or channel were lost, and with them what was held. What was
            missing (a queue that was deleted) is declared with the next attempt.
        """
        try:
            with self.link.guarded(what):
                yield
        except CHANNEL_ERRORS as error:
            self.channel_closed(error)
            raise BrokerUnavailable(f"RabbitMQ closed the channel while {what}: {error}") from error

    # --- taking -----------------------------------------------------------------------------------

    def gather(self, wire: Wire, max_n: int) -> None:
        """Fill the inbox with up to `max_n` messages, of those that are ready now."""
        stream = self.stream
        if not self._listening and stream.fits(max_n) and len(self._queues) == 1 and not self._clashes:
            stream.begin(wire, self.channel_id, self._queues[0], max_n)
        if stream.prefetch:
            stream.flow(wire, max_n, lambda: self.inbox)
            if self.inbox:
                return
        if self._listening:
            wire.pump(0)
            if not self.inbox:
                self.round_trip()
            if not self.inbox:
                return
            self.stop_listening(wire)
        if len(self.inbox) < max_n:
            self._ask_all(wire, max_n)
            stream.plenty = len(self.inbox) >= max_n

    def exists(self, queue: str) -> bool:
        """Whether there is such a queue. Asked on another channel: to ask for messages of one that is
        missing would end this one, and give back what is held."""
        with self.doing("asking for a queue"):
            wire = self.ready()
            if queue in self._existing:
                return True
            asking = wire.channel()
            try:
                asking.queue_declare(queue, passive=True)
            except amqp.exceptions.NotFound:
                return False  # and the broker has closed the channel
            finally:
                if asking.is_open:
                    asking.close()
            self._existing.add(queue)
            return True

    def gather_from(self, wire: Wire, queue: str, max_n: int) -> None:
        """Fill the inbox from one queue, which must exist and need not be one of the consumer's."""
        self._ask(wire, queue, max_n)

    def round_trip(self) -> None:
        """Set the prefetch count of consumers to come, and wait for the answer: what was sent before it
        has been read by then, and what was ready has been pushed."""
        self._set_prefetch(1)

    def _set_prefetch(self, count: int) -> None:
        self._channel.basic_qos(0, count, False)
        self._prefetch = count

    def listen(self, wire: Wire) -> None:
        """Have the next message of each queue pushed."""
        if self._listening:
            return
        if self._prefetch != 1:
            self.round_trip()
        frames = []
        for index, queue in enumerate(self._queues):
            if queue not in self._clashes:
                self._listening[f"q{index}"] = queue
                frames.append(consume_frame(self.channel_id, queue, f"q{index}"))
        wire.write(b"".join(frames), _ANSWER_S)

    def stop_listening(self, wire: Wire) -> None:
        """Have no more pushed to an idle consumer, and know what has been pushed so far.

        One queue whose message is not acknowledged yet pushes nothing further: to be told is enough.
        """
        if not self._listening:
            return
        (tag, *others) = tags = list(self._listening)
        if self.inbox and not others:
            wire.write(cancel_frame(self.channel_id, tag), _ANSWER_S)
        else:
            self._cancel(wire, tags)
        self._listening.clear()

    def _cancel(self, wire: Wire, tags: list[str], within_s: float = _ANSWER_S) -> None:
        """End consumers, and read all that was pushed to them.

        The answer comes from the queue, after its messages; the channel's own answers may overtake them.
        """
        self._uncancelled = len(tags)
        wire.write(b"".join([cancel_frame(self.channel_id, tag, wait=True) for tag in tags]), _ANSWER_S)
        end_mono_s = monotonic() + within_s
        while self._uncancelled:
            if not wire.pump(end_mono_s - monotonic()):
                raise TimeoutError("no answer to basic.cancel")
        self.round_trip()

    def end_stream(self) -> None:
        """Have nothing pushed any more while others run; what has come lies in the inbox."""
        wire = self.link.current()
        if self.stream.prefetch and wire is not None:
            with self.doing("ending a stream"):
                self.stream.end(wire)

    def _ask_all(self, wire: Wire, max_n: int) -> None:
        """Ask the queues in turn; one that was empty a moment ago only if nobody else has anything."""
        queues = [queue for queue in self._queues if queue not in self._clashes]
        if not queues:
            return  # deleted just now
        self._first += 1
        start = self._first % len(queues)
        queues = queues[start:] + queues[:start]
        recent_mono_s = monotonic() - _SKIP_EMPTY_S
        skipped = [q for q in queues if self._empty_since_mono_s.get(q, 0.0) > recent_mono_s]
        for queue in queues:
            if queue not in skipped:
                self._ask(wire, queue, max_n)
        for queue in skipped:
            if not self.inbox:
                self._ask(wire, queue, max_n)

    def _ask(self, wire: Wire, queue: str, max_n: int) -> None:
        """Ask one queue until it has no more, or the inbox holds enough."""
        while (missing := max_n - len(self.inbox)) > 0:
            count = min(missing, max(1, self._left.get(queue, 0)))
            self._asked.extend([queue] * count)
            wire.write(get_frame(self.channel_id, queue) * count, _ANSWER_S)
            end_mono_s = monotonic() + _ANSWER_S
            while self._asked:
                if not wire.pump(end_mono_s - monotonic()):
                    raise TimeoutError("no answer to basic.get")
            if not self._left.get(queue):
                return

    def hold_from(self, wire: Wire, queue: str) -> None:
        """Have the owner's started suspect pushed, as soon as it is there."""
        if self._held_queue != queue:
            wire.write(consume_frame(self.channel_id, queue, HELD_TAG), _ANSWER_S)
            self._held_queue = queue

    # --- what comes -------------------------------------------------------------------------------

    def _on_content(self, method: Method, arguments: bytes, header: bytes, body: bytes) -> None:
        if method not in (DELIVER, GET_OK):
            return
        arrival = read_arrival(method, arguments)
        held = arrival.consumer_tag == HELD_TAG
        if method == GET_OK:
            queue = self._asked.popleft()
            self._left[queue] = arrival.left
        else:
            # The stream's tag ends as that of the first queue.
            queue = arrival.routing_key if held else self._queues[int(arrival.consumer_tag[1:])]
        try:
            properties, plain = self._reader.read(header, 12)
        except Undecodable as error:
            _log.error("a message in queue %r has damaged properties: %s", queue, error)
            properties, plain = {}, True
        received = Received(
            _TAG.pack(self._epoch, arrival.delivery_tag),
            arrival.delivery_tag,
            queue,
            properties,
            body,
            exchange=arrival.exchange,
            routing_key=arrival.routing_key,
            redelivered=arrival.redelivered,
            marked=may_be_marked(header),
            plain=plain,
        )
        (self.from_held if held else self.inbox).append(received)

    def _on_method(self, method: Method, payload: bytes) -> bool:
        if method == GET_EMPTY:
            queue = self._asked.popleft()
            self._left[queue] = 0
            self._empty_since_mono_s[queue] = monotonic()
            return True
        if method == CANCEL_OK:
            self._uncancelled -= 1
            return True
        if method == CANCEL:
            tag = read_consumer_tag(payload)
            if tag == HELD_TAG:
                self._held_queue = ""
                return True
            if tag == STREAM_TAG:
                self.stream.forget()
            queue = self._listening.pop(tag, self._queues[0])
            _log.warning("RabbitMQ cancelled the consumer of queue %r: it was deleted or moved", queue)
            self._topology.forget(queue)
            self._clashes[queue] = 0.0  # declared again at the next look
            return True
        if method == CHANNEL_CLOSE:
            return self._closing(read_close(payload))
        return False

    def _closing(self, said: str) -> bool:
        """Whether the broker has said so before: it repeats itself until it is answered."""
        repeated, self._is_closing = self._is_closing, True
        if not repeated and "timed out" in said:
            self._on_timeout()
        return repeated
