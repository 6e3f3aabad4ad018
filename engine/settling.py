"""Carries outcomes to the broker and the result store, in the order that loses nothing.

Used by the child's loop and, for a child that cannot do it any more, by the agent. Where the
broker keeps the results too, one call does all of it; otherwise results are stored first, then
follow-ups are published, then the message is acknowledged, so that a crash in between repeats
something and loses nothing (design §4.6).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import msgspec

from ..transports.base import Consumer, Informs, Outcome, ResultStore, StoredResult, Transport
from ..transports.errors import BrokerUnavailable, TransportError

# What is done instead of an outcome that is refused for good, best first.
Instead = Callable[[Consumer, Outcome, Exception], Iterator[Outcome]]

_log = logging.getLogger("prefork.settling")

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Outcome)


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as bytes, for the outcome area of the scoreboard."""
    return _ENCODER.encode(outcome)


def decode_outcome(data: bytes) -> Outcome:
    """What `encode_outcome` made.

    :raises msgspec.DecodeError: the bytes are something else.
    """
    return _DECODER.decode(data)


class Settler:
    """Settles outcomes with one broker and one result store.

    :param transport: the broker of the messages.
    :param store: where results go; None stores nothing.
    :param together: `store` is kept by `transport` itself, and settles with the message.
    :param instead: what is done when an outcome is refused for good (see `refusals`); without it the
        refusal is raised.
    """

    def __init__(
        self,
        transport: Transport,
        store: ResultStore | None,
        *,
        together: bool,
        instead: Instead | None = None,
    ) -> None:
        self._transport = transport
        self._instead = instead
        self._store = store
        self._together = together or store is None
        # Of the consumer that was asked last: a child has one, and looking at a protocol takes microseconds.
        self._asked: Consumer | None = None
        self._informer: Informs | None = None

    def settle(self, consumer: Consumer, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle; False for an outcome whose message somebody took back.

        One that broker or store will never take does not hold up the others: its task fails, or its
        message becomes a dead letter.

        :raises TransportError: the broker or the store could not be reached. Nothing is lost:
            calling again with the same outcomes is harmless.
        """
        try:
            return self._settle(consumer, outcomes)
        except (TransportError, ValueError) as error:
            if not is_permanent(error) or self._instead is None:
                raise
            if len(outcomes) == 1:
                return [self._settle_instead(consumer, outcomes[0], error, self._instead)]
        return [self.settle(consumer, [outcome])[0] for outcome in outcomes]

    def _settle_instead(
        self, consumer: Consumer, outcome: Outcome, error: Exception, instead: Instead
    ) -> bool:
        last = error
        for other in instead(consumer, outcome, error):
            try:
                return self._settle(consumer, [other])[0]
            except (TransportError, ValueError) as again:
                if not is_permanent(again):
                    raise
                last = again
        # That must be mended; until then the message is kept, and not run again.
        raise BrokerUnavailable(f"not even a dead letter is taken: {last}") from last

    def _settle(self, consumer: Consumer, outcomes: Sequence[Outcome]) -> list[bool]:
        if self._together:
            if self._store is None:
                outcomes = [_without_results(outcome) for outcome in outcomes]
            return consumer.settle(outcomes)
        return self._one_after_the_other(consumer, outcomes)

    def inform(self, consumer: Consumer, tag: bytes, result: StoredResult, *, more: bool = False) -> None:
        """Store that something happens to a delivery, without waiting for the store.

        Whatever is settled later is stored later.

        :param more: something else is likely to be stored or settled within milliseconds.
        :raises TransportError: the store is known to be away.
        """
        if consumer is not self._asked:
            self._asked = consumer
            self._informer = consumer if self._together and isinstance(consumer, Informs) else None
        if self._informer is not None:
            self._informer.inform(tag, (result,), more=more)
        elif self._store is not None:
            self._store.store_soon((result,))

    def _one_after_the_other(self, consumer: Consumer, outcomes: Sequence[Outcome]) -> list[bool]:
        assert self._store is not None
        # A worker that was stopped longer than its lease must not store for what was taken from it.
        held = [not outcome.results or consumer.fetch(outcome.tag) is not None for outcome in outcomes]
        results = [
            result
            for outcome, is_held in zip(outcomes, held, strict=True)
            if is_held
            for result in outcome.results
        ]
        if results:
            self._store.store(results)
        return consumer.settle([_without_results(outcome) for outcome in outcomes])


def is_permanent(error: Exception) -> bool:
    """Whether it is of no use to try again: what cannot be done at all is a ValueError."""
    return error.permanent if isinstance(error, TransportError) else isinstance(error, ValueError)


def _without_results(outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(outcome, results=()) if outcome.results else outcome
