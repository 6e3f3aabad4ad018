"""Publishes with confirms, in order, under one deadline for everything that a publish may wait for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from ..errors import BrokerFull, BrokerUnavailable, Unroutable
from .codec import encode_properties
from .errors import Refused, refused
from .frames import ACK, NACK, RETURN, Method, publish_frames, read_confirm, read_return
from .kept import Kept, Known
from .link import CHANNEL_ERRORS, Link
from .parcels import Mark, Parcel, mark_of
from .settings import AmqpSettings
from .topology import Topology
from .wire import Wire

_CHUNK_BYTES = 1 << 18
# Every so many messages one more publish timeout is granted: a bulk call may take its time.
_MESSAGES_PER_TIMEOUT = 1000
# A key of the default exchange that leads nowhere: what is sent there is confirmed, and dropped.
_NOWHERE = "prefork.nowhere"
_PROBE = -1

_log = logging.getLogger("prefork.amqp")


class Publisher:
    """One connection with one channel in confirm mode. Safe to use from several threads.

    Everything below belongs to the thread that holds the lock of the link.
    """

    def __init__(self, settings: AmqpSettings, purpose: str = "publisher") -> None:
        self.link = Link(settings, purpose)
        self._settings = settings
        self._topology = Topology(settings)
        self._channel: Any = None
        self._generation = -1
        self._last_tag = 0
        self._unconfirmed: dict[int, int] = {}
        self._refused: list[int] = []
        self._returned: list[tuple[int, str, str, str]] = []
        self._kept: Kept | None = None
        self._known = Known()
        # Something was written of which the broker has said nothing: perhaps because of an alarm.
        self._in_doubt = False

    @property
    def blocked(self) -> bool:
        """Whether the broker takes no messages (memory or disk alarm), as far as is known."""
        with self.link.lock:
            return self.link.blocked or (self._kept is not None and not self._kept.is_over(0.0))

    def publish(self, parcels: Sequence[Parcel]) -> None:
        """Publish, and return when the broker has everything.

        While an alarm lasts nothing more is written once it is known. What was on its way by then may come
        when it ends: whoever then sends the same message, known by its id, has sent that one.

        :raises BrokerUnavailable: it could not be reached, or did not confirm in time.
        :raises BrokerFull: it takes no messages at present.
        :raises Unroutable: there is no queue for one of them.
        :raises DeclarationClash: a queue is not what is configured.
        :raises Refused: it may not be done, or there is no such exchange.
        :raises Unacceptable: a message is too large.
        :raises codec.Unencodable: a header has no form in AMQP.
        """
        encoded = [encode_properties(parcel.properties) for parcel in parcels]
        with self._turn(len(parcels)) as end_mono_s:
            if self._kept is not None or self._known.stored:
                left = self._still_to_send(parcels, encoded, end_mono_s)
                parcels, encoded = [parcels[index] for index in left], [encoded[index] for index in left]
                if not parcels:
                    return
            returned = self._publish(parcels, encoded, end_mono_s)
            if returned and self._settings.confirms:
                self._topology.forget()
                missing = [index for index, parcel in enumerate(parcels) if _came_back(parcel, returned)]
                again = [parcels[index] for index in missing]
                returned = self._publish(again, [encoded[index] for index in missing], end_mono_s)
        returned = [one for one in returned if not self._settings.is_broadcast(one[2])]
        if returned:
            _code, said, exchange, key = returned[0]
            raise Unroutable(exchange, key, said)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """The answer to a question to a channel of its own, such as the depth of a queue.

        :param question: gets the channel; errors of the channel are passed on.
        :raises BrokerUnavailable: no answer in time.
        """
        with self._turn(1) as end_mono_s, self.link.guarded("it was asked"):
            wire = self._read_by_broker(end_mono_s)
            wire.sock.settimeout(self._settings.publish_timeout_s)
            with _deadline(wire, end_mono_s):
                channel = wire.channel()
                channel_id = int(channel.channel_id)
                try:
                    return question(channel)
                finally:
                    if wire.connected and channel.is_open:
                        channel.close()
                    wire.forget_channel(channel_id)

    def declare(self, action: Callable[[Topology, Any], Any]) -> Any:
        """Let an action declare something; returns what it returns."""
        with self._turn(1) as end_mono_s, self.link.guarded("declaring"):
            self._read_by_broker(end_mono_s)
            return self._declaring(end_mono_s, action)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self.link.renew_after_fork()
        with self.link.lock:
            self.link.close()
            if self._kept is not None:
                self._kept.link.drop()
                self._kept = None

    # --- below, the lock is held --------------------------------------------------------------------

    @contextmanager
    def _turn(self, messages: int) -> Iterator[float]:
        """Hold the lock; gives the monotonic time at which everything must be over."""
        timeout_s = self._settings.publish_timeout_s * (1 + messages // _MESSAGES_PER_TIMEOUT)
        end_mono_s = monotonic() + timeout_s
        self.link.renew_after_fork()
        if self._kept is not None:
            self._kept.link.renew_after_fork()
        lock = self.link.lock
        if not lock.acquire(timeout=timeout_s):
            raise BrokerUnavailable(
                f"RabbitMQ did not answer another thread of this process within {timeout_s:g} s"
            )
        try:
            yield end_mono_s
        finally:
            lock.release()

    def _publish(
        self, parcels: Sequence[Parcel], encoded: Sequence[bytes], end_mono_s: float
    ) -> list[tuple[int, str, str, str]]:
        if self._in_doubt and self._settings.confirms:
            self._probe(end_mono_s)
        with self.link.guarded("publishing", outcome_unknown=True):
            self._prepare(parcels, end_mono_s)
            wire = self.link.wire(end_mono_s)
            try:
                self._wait_until_taken(wire, end_mono_s)
                self._in_doubt = True
                self._write(wire, parcels, encoded, end_mono_s)
                if self._settings.confirms:
                    self._await_confirms(wire, parcels, encoded, end_mono_s)
                self._in_doubt = False
            except CHANNEL_ERRORS as error:
                # The channel is closed, and with it went what else was on its way.
                self.link.drop()
                self._in_doubt = False
                raise refused("a message", error.code, str(error.reply_text)) from error
            nacked, self._refused = self._refused, []
            returned, self._returned = self._returned, []
        if nacked:
            raise BrokerFull(
                f"RabbitMQ refused {len(nacked)} of {len(parcels)} messages (a queue at its limit, "
                "or one that has no leader at present); send them again later"
            )
        return returned

    def _prepare(self, parcels: Sequence[Parcel], end_mono_s: float) -> None:
        """Declare what they need. What cannot be declared is said before anything is sent."""
        needed = dict.fromkeys(
            (one.queue, one.leads_from if one.delayed else one.exchange, one.delayed) for one in parcels
        )

        def declare(topology: Topology, channel: Any) -> None:
            for queue, exchange, delayed in needed:
                if queue is None:
                    continue
                if delayed and exchange:
                    topology.delayed_exchange(channel, exchange)
                elif delayed:
                    topology.delayed(channel, queue)
                elif exchange:
                    topology.exchange(channel, exchange)
                else:
                    topology.queue(channel, queue)

        self._declaring(end_mono_s, declare)

    def _declaring(self, end_mono_s: float, action: Callable[[Topology, Any], Any]) -> Any:
        wire = self._ready(end_mono_s)
        try:
            with _deadline(wire, end_mono_s):
                return action(self._topology, self._channel)
        except BaseException as error:
            self.link.drop()  # the channel is closed; a new connection costs little, and this is rare
            if isinstance(error, CHANNEL_ERRORS):
                raise refused("a declaration", error.code, str(error.reply_text)) from error
            raise

    def _ready(self, end_mono_s: float) -> Wire:
        """The connection, with a channel in confirm mode."""
        wire = self.link.wire(end_mono_s)
        if self._generation == self.link.generation and self._channel is not None:
            return wire
        self._topology.forget()
        self._last_tag = 0
        self._unconfirmed.clear()
        self._refused.clear()
        self._returned.clear()
        try:
            with _deadline(wire, end_mono_s):
                self._channel = wire.channel()
                if self._settings.confirms:
                    self._channel.confirm_select()
        except CHANNEL_ERRORS as error:
            raise Refused(f"RabbitMQ opened no channel: {error}") from error
        wire.take(self._channel.channel_id, self._on_content, self._on_method)
        self._generation = self.link.generation
        return wire

    def _wait_until_taken(self, wire: Wire, end_mono_s: float) -> None:
        """While an alarm lasts nothing is sent: it would be, later, after its caller was told otherwise."""
        wire.pump(0)
        while self.link.blocked:
            left_s = end_mono_s - monotonic()
            if left_s <= 0:
                raise BrokerFull(_full(self._settings))
            wire.pump(left_s)

    def _write(
        self, wire: Wire, parcels: Sequence[Parcel], encoded: Sequence[bytes], end_mono_s: float
    ) -> None:
        channel_id, frame_max = self._channel.channel_id, wire.frame_max
        frames: list[bytes] = []
        size = 0
        for index, (parcel, properties) in enumerate(zip(parcels, encoded, strict=True)):
            self._last_tag += 1
            if self._settings.confirms:
                self._unconfirmed[self._last_tag] = index
            frames += publish_frames(
                channel_id,
                parcel.exchange,
                parcel.routing_key,
                properties,
                parcel.body,
                frame_max,
                mandatory=self._settings.confirms,
            )
            size += len(parcel.body) + len(properties)
            if size >= _CHUNK_BYTES:
                wire.write(b"".join(frames), end_mono_s - monotonic())
                wire.pump(0)
                frames, size = [], 0
        wire.write(b"".join(frames), end_mono_s - monotonic())

    def _await_confirms(
        self, wire: Wire, parcels: Sequence[Parcel], encoded: Sequence[bytes], end_mono_s: float
    ) -> None:
        while self._unconfirmed:
            left_s = end_mono_s - monotonic()
            if left_s > 0:
                wire.pump(left_s)
                continue
            if self.link.blocked:
                self._set_aside([mark_of(*pair) for pair in zip(parcels, encoded, strict=True)])
                raise BrokerFull(_full(self._settings, doubt=bool(parcels)), outcome_unknown=bool(parcels))
            missing = len(self._unconfirmed)
            self.link.drop()
            raise BrokerUnavailable(
                f"RabbitMQ did not confirm {missing} messages in time; they may have been stored",
                outcome_unknown=bool(parcels),
            )

    # --- alarms -------------------------------------------------------------------------------------

    def _probe(self, end_mono_s: float) -> None:
        """After a doubt, see by a small message to nowhere that the broker takes messages.

        :raises BrokerFull: it does not; nothing of the caller's was sent.
        """
        with self.link.guarded("it was asked whether it takes messages"):
            try:
                wire = self._ready(end_mono_s)
                self._last_tag += 1
                self._unconfirmed[self._last_tag] = _PROBE
                frames = publish_frames(
                    self._channel.channel_id,
                    "",
                    _NOWHERE,
                    encode_properties({}),
                    b"?",  # one without a body is taken in an alarm as well
                    wire.frame_max,
                    mandatory=False,
                )
                wire.write(b"".join(frames), end_mono_s - monotonic())
                self._await_confirms(wire, (), (), end_mono_s)
            except CHANNEL_ERRORS as error:
                # No right to publish there. In an alarm it would not have got so far as to say so.
                _log.debug("asking whether messages are taken: %s", error)
                self.link.drop()
        self._refused.clear()
        self._in_doubt = False

    def _set_aside(self, marks: Sequence[Mark | None]) -> None:
        """Keep the connection, which is blocked; what does not publish goes on with another one.

        :param marks: of what was being sent, of which some may have been stored before the alarm.
        """
        waiting = {tag: None if index == _PROBE else marks[index] for tag, index in self._unconfirmed.items()}
        over = {*self._unconfirmed.values(), *self._refused}
        stored = [] if self._returned else [one for at, one in enumerate(marks) if at not in over]
        if self._kept is not None:
            self._kept.link.drop()
        self._kept = Kept(self.link.split(), self._channel.channel_id, waiting, stored)

    def _read_by_broker(self, end_mono_s: float) -> Wire:
        """A connection for questions: from one that is blocked the broker reads nothing at all."""
        wire = self.link.wire(end_mono_s)
        wire.pump(0)
        if self.link.blocked:
            self._set_aside(())
            wire = self.link.wire(end_mono_s)
        return wire

    def _still_to_send(
        self, parcels: Sequence[Parcel], encoded: Sequence[bytes], end_mono_s: float
    ) -> list[int]:
        """Wait for the end of an alarm; the indices of what was not stored by then under an earlier attempt.

        :raises BrokerFull: the alarm lasts; nothing was sent now.
        """
        marks = [mark_of(*pair) for pair in zip(parcels, encoded, strict=True)]
        kept = self._kept
        if kept is not None:
            is_over = kept.is_over(end_mono_s)
            doubt = any(map(kept.holds, marks))
            if not is_over and kept.link.blocked:
                raise BrokerFull(_full(self._settings, doubt=doubt), outcome_unknown=doubt)
            self._known.learn(kept.stored)
            self._kept = None
            if not is_over:
                kept.link.drop()
                raise BrokerUnavailable(
                    "RabbitMQ did not confirm in time what was sent in an alarm", outcome_unknown=doubt
                )
            kept.link.close()
        return self._known.missing(marks)

    def _on_method(self, method: Method, payload: bytes) -> bool:
        if method not in (ACK, NACK):
            return False
        tag, multiple = read_confirm(payload)
        tags = [one for one in self._unconfirmed if one <= tag] if multiple else [tag]
        for one in tags:
            index = self._unconfirmed.pop(one, None)
            if method == NACK and index is not None:
                self._refused.append(index)
        return True

    def _on_content(self, method: Method, arguments: bytes, _header: bytes, _body: bytes) -> None:
        if method == RETURN:
            self._returned.append(read_return(arguments))


@contextmanager
def _deadline(wire: Wire, end_mono_s: float) -> Iterator[None]:
    """Bound what py-amqp waits for within the block: it knows no deadline of its own."""
    wire.end_mono_s = end_mono_s
    try:
        yield
    finally:
        wire.end_mono_s = None


def _came_back(parcel: Parcel, returned: Sequence[tuple[int, str, str, str]]) -> bool:
    return any((parcel.exchange, parcel.routing_key) == (exchange, key) for _c, _s, exchange, key in returned)


def _full(settings: AmqpSettings, *, doubt: bool = False) -> str:
    return (
        f"RabbitMQ has taken no messages for {settings.publish_timeout_s:g} s (memory or disk alarm); "
        "free memory or disk space at the broker, and send again"
        + (", under the same id: this may come as well when the alarm ends" if doubt else "")
    )
