"""Reserving and settling for one owner: an own connection, whose end returns everything at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from ..base import Delivery, Outcome
from ..errors import BrokerFull, BrokerUnavailable, OwnerLost
from .consequences import anew, check_outcome, parcels_of, put_off
from .errors import DeclarationClash, Refused
from .frames import ack_frames, requeue_frame
from .intake import Intake
from .link import CHANNEL_ERRORS
from .obituaries import read_obituary, tell_of_timeout
from .parcels import Parcel
from .publisher import Publisher
from .received import Received
from .settings import AmqpSettings
from .topology import HELD_EXCHANGE

_WRITE_S = 5.0

_log = logging.getLogger("prefork.amqp")


class AmqpConsumer:
    """Implements `Consumer`, `Selects`, `Streams`, `Wakeable`, `Flushes`, `Remembers` of `transports.base`.

    :param queues: what it reserves from.
    :param publisher: for what is sent in consequence; consuming and publishing do not share a
        connection, because RabbitMQ stops reading from one that publishes while an alarm lasts.
    :param on_closed: called once when it is closed.
    """

    def __init__(
        self,
        settings: AmqpSettings,
        queues: Sequence[str],
        owner: str,
        publisher: Publisher,
        wall: Callable[[], float],
        on_closed: Callable[[AmqpConsumer], None],
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._publisher = publisher
        self._wall = wall
        self._on_closed = on_closed
        self._intake = Intake(
            settings,
            tuple(dict.fromkeys(queues)),
            owner,
            lambda: tell_of_timeout(publisher, self._held.values()),
        )
        # All below are written under the lock of the intake's link.
        self._held: dict[bytes, Received] = {}
        self._held_epoch = b""
        self._held_queue = ""
        self._alone = False
        self._open = True

    @property
    def owner(self) -> str:
        """The owner, as in `Consumer.owner`."""
        return self._owner

    def fileno(self) -> int:
        """A descriptor that polls readable when something may be ready; -1 while there is none."""
        wire = self._intake.link.current()
        return -1 if wire is None else wire.fileno()

    def allow_streaming(self) -> None:
        """Have messages pushed while others run, as in `Streams`."""
        self._intake.stream.allowed = True

    @property
    def streaming(self) -> bool:
        """Whether messages may be here that nobody was handed, as in `Streams`."""
        return self._intake.stream.prefetch > 0 or bool(self._intake.inbox)

    def in_work(self, queue: str) -> int:
        """How many messages of a queue it holds."""
        with self._intake.link.lock:
            self._refresh()
            return sum(one.queue == queue for one in self._held.values())

    # --- reserving --------------------------------------------------------------------------------

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Take messages, as in `Consumer.reserve`.

        :raises OwnerLost: it was closed, or its owner recovered.
        """
        end_mono_s = monotonic() + timeout_s
        intake = self._intake
        with intake.link.lock:
            self._check_open()
            if max_n <= 0:
                return []
            with intake.doing("asking for messages"):
                return self._reserve(max_n, end_mono_s)

    def _reserve(self, max_n: int, end_mono_s: float) -> list[Delivery]:
        intake = self._intake
        wire = intake.ready()
        self._refresh()
        while True:
            intake.gather(wire, 1 if self._alone else max_n)
            self._put_off_fresh()
            if self._alone or intake.inbox.has_suspects():
                # Where one came back, more will have: they are fetched one by one, and none held for nothing.
                self._alone = True
                intake.end_stream()
                self._put_off_fresh()
            batch = self._choose(max_n)
            if batch:
                return [one.delivery() for one in batch]
            if not self._alone:
                intake.listen(wire)
                left_s = end_mono_s - monotonic()
                if left_s <= 0:
                    return []
                wire.pump(left_s)
            self._alone = False

    def reserve_from(self, queue: str, max_n: int) -> list[Delivery]:
        """Take messages of one queue, as in `Selects.reserve_from`. A missing one is empty."""
        intake = self._intake
        with intake.link.lock:
            self._check_open()
            if max_n <= 0 or not self._intake.exists(queue):
                return []
            with intake.doing("asking for messages"):
                wire = intake.ready()
                self._refresh()
                intake.stop_listening(wire)
                intake.end_stream()
                self._put_off_fresh()
                self._return_inbox()
                intake.gather_from(wire, queue, max_n)
                self._put_off_fresh()
                return [one.delivery() for one in self._choose(max_n)]

    def _put_off_fresh(self) -> None:
        """Let rest what another connection lost: its process may be what it killed.

        Whoever saw that process end gets time to say what it died of, and what it ran (`obituary`). The copy
        that comes back bears the mark of a suspect: the broker's is set, too, on what was merely returned.
        """
        fresh = self._intake.inbox.fresh()
        if not fresh:
            return
        pause_s = self._settings.redelivery_pause_s
        try:
            self._publisher.publish([put_off(one, pause_s, suspect=True) for one in fresh])
        except (DeclarationClash, Refused, ValueError) as error:
            _log.error("redelivered messages run without a pause: %s", error)
            for one in fresh:
                one.redelivered, one.suspect = False, True
            return
        self._intake.inbox.discard(fresh)
        self._acknowledge(fresh)
        self._alone = True

    def _choose(self, max_n: int) -> list[Received]:
        """Hold some of the inbox: what is not suspect, or one suspect alone; return the rest."""
        batch = (inbox := self._intake.inbox).take(max_n)
        # Held from here on: else it would be acknowledged together with what is returned.
        self._held.update((one.tag, one) for one in batch)
        if not self._intake.stream.prefetch:
            try:
                self._return_inbox()
            except BaseException:
                inbox.put_back([one for one in batch if self._held.pop(one.tag, None)])
                raise
        return batch

    def _return_inbox(self) -> None:
        """Give back what nobody was handed.

        Until that is done it stays in the inbox: else it would be acknowledged with what comes later.
        """
        inbox = self._intake.inbox
        surplus = list(inbox)
        for one in surplus:
            # It has not rested yet (`_put_off_fresh`), and this was the broker's only mark.
            one.suspect = one.suspect or one.redelivered
        self._give_back(surplus)
        inbox.discard(surplus)

    def _check_open(self) -> None:
        if not self._open:
            raise OwnerLost(self._owner, "recovered or closed; open a consumer with a new owner")

    def _refresh(self) -> None:
        """Forget what was held on a connection that is gone: the broker has given it to others."""
        if self._held_epoch != self._intake.epoch:
            self._held_epoch = self._intake.epoch
            self._held.clear()
            self._held_queue = ""

    # --- settling ---------------------------------------------------------------------------------

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle deliveries, as in `Consumer.settle`.

        What is sent in consequence is confirmed by the broker before the delivery is acknowledged:
        if this process dies in between, it is sent once more.

        :raises ValueError: an outcome says nothing that could be done; nothing was settled.
        """
        for outcome in outcomes:
            check_outcome(outcome)
        with self._intake.link.lock:
            self._notice()
            chosen: dict[bytes, Received] = {}
            answers = []
            parcels: list[Parcel] = []
            for outcome in outcomes:
                received = self._held.get(outcome.tag)
                answers.append(received is not None and outcome.tag not in chosen)
                if received is not None and answers[-1]:
                    chosen[outcome.tag] = received
                    parcels += parcels_of(received, outcome, self._wall(), self._settings)
            if parcels:
                self._publisher.publish(parcels)
            self._acknowledge(list(chosen.values()))
            return answers

    def flush(self) -> None:
        """Wait until the broker has read what was settled, as in `Flushes.flush`."""
        intake = self._intake
        with intake.link.lock:
            try:
                self._intake.link.required()
                with intake.doing("flushing"):
                    intake.round_trip()
            except BrokerUnavailable as error:
                raise BrokerUnavailable(str(error), outcome_unknown=True) from error

    def give_back(self, tags: Sequence[bytes]) -> int:
        """Return messages, as in `Consumer.give_back`."""
        with self._intake.link.lock:
            self._notice()
            wanted = {tag: self._held[tag] for tag in tags if tag in self._held}
            if self.streaming:
                self._intake.end_stream()
                self._return_inbox()
            return self._give_back(list(wanted.values()))

    def _give_back(self, messages: Sequence[Received]) -> int:
        """Send them anew: what is returned otherwise bears the mark of a redelivered message for ever,
        and a quorum queue counts it, and drops a message at its delivery limit."""
        if not messages:
            return 0
        messages = sorted(messages, key=lambda one: one.delivery_tag)
        try:
            self._publisher.publish([anew(one) for one in messages])
            self._acknowledge(messages)
        except BrokerFull as error:
            _log.warning("given back as they are: %s", error)
            self._requeue(messages)
        return len(messages)

    def _requeue(self, messages: Sequence[Received]) -> None:
        wire = self._intake.link.required()
        intake = self._intake
        frames = [requeue_frame(intake.channel_id, one.delivery_tag) for one in messages]
        with intake.doing("giving back"):
            intake.stop_listening(wire)
            wire.write(b"".join(frames), _WRITE_S)
        for one in messages:
            self._held.pop(one.tag, None)

    def _acknowledge(self, done: Sequence[Received]) -> None:
        """Acknowledge; all that are older than anything still held with one frame."""
        if not done:
            return
        wire = self._intake.link.required()
        intake = self._intake
        tags = {one.delivery_tag for one in done}
        others = (one.delivery_tag for one in self._open_deliveries() if one.delivery_tag not in tags)
        frames = ack_frames(intake.channel_id, tags, others)
        with intake.doing("acknowledging"):
            intake.stop_listening(wire)
            wire.write(b"".join(frames), _WRITE_S)
        for one in done:
            self._held.pop(one.tag, None)

    def _open_deliveries(self) -> Iterable[Received]:
        yield from self._held.values()
        yield from self._intake.inbox
        yield from self._intake.from_held

    def _notice(self) -> None:
        self._intake.notice()
        self._refresh()

    # --- suspects ---------------------------------------------------------------------------------

    def mark_started(self, tag: bytes) -> bool:
        """Record a start, as in `Consumer.mark_started`.

        RabbitMQ keeps no record of its own that could be trusted: it counts deliveries, not starts.
        So the message is sent anew, with its count, to a queue that only this owner takes from; when
        the owner dies, it returns from there to where it came from, and the count tells.
        """
        with self._intake.link.lock:
            self._notice()
            old = self._held.get(tag)
            if old is None:
                return False
            if not old.started:
                self._move_to_held(old)
            return True

    def _move_to_held(self, old: Received) -> None:
        intake = self._intake
        if not self._held_queue:
            self._held_queue = self._publisher.declare(
                lambda topology, channel: topology.held(channel, self._owner)
            )
        properties = old.as_started_by(self._owner)
        with intake.doing("recording a start"):
            intake.hold_from(self._intake.link.required(), self._held_queue)
        self._publisher.publish([Parcel(HELD_EXCHANGE, old.queue, properties, old.body)])
        new = self._await_held()
        self._acknowledge([old])
        self.flush()
        new.tag, new.crashes, new.suspect, new.started = old.tag, old.crashes, True, True
        new.exchange, new.routing_key, new.queue = old.exchange, old.routing_key, old.queue
        self._held[old.tag] = new

    def _await_held(self) -> Received:
        intake = self._intake
        end_mono_s = monotonic() + self._settings.publish_timeout_s
        with intake.doing("recording a start"):
            wire = self._intake.link.required()
            while not intake.from_held:
                left_s = end_mono_s - monotonic()
                if left_s <= 0:
                    intake.link.drop()
                    raise BrokerUnavailable("RabbitMQ did not return a suspect in time")
                wire.pump(left_s)
        return intake.from_held.popleft()

    def obituary(self, tag: bytes) -> bytes | None:
        """What somebody left word of about a suspect, as in `Remembers.obituary`."""
        with self._intake.link.lock:
            self._notice()
            received = self._held.get(tag)
            if received is None or not received.message_id:
                return None
            return read_obituary(self._publisher, received.message_id)

    def fetch(self, tag: bytes) -> Delivery | None:
        """Read a delivery, as in `Consumer.fetch`."""
        with self._intake.link.lock:
            self._notice()
            received = self._held.get(tag)
            return None if received is None else received.delivery()

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back and close the connection, as in `Consumer.close`."""
        self._intake.link.renew_after_fork()
        self.surrender(None, "")

    def surrender(self, running: bytes | None, cause: str) -> int:
        """Give back everything, for good; returns how many were held.

        :param running: what ran is charged with the cause, if there is one.
        """
        with self._intake.link.lock:
            if not self._open:
                return 0
            self._open, count = False, 0
            try:
                self._notice()
                ran = self._held.get(running) if running is not None and cause else None
                if ran is not None:
                    ran.charge(cause)
                self._intake.end_stream()
                count = len(self._held) + len(self._intake.inbox)
                self._give_back(list(self._held.values()))
                self._return_inbox()
                if self._held_queue:
                    name = self._held_queue
                    self._publisher.ask(lambda channel: channel.queue_delete(name, if_empty=True))
            except (Refused, *CHANNEL_ERRORS) as error:
                _log.debug("the queue of started suspects is left to expire: %s", error)
            finally:
                self._held.clear()
                self._intake.link.close()
                self._on_closed(self)
            return count
