"""Handing messages to the broker, or to whoever takes them instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..transports.base import Outgoing, SendsWithin, Transport
from ..transports.errors import BrokerUnavailable
from .clock import mono_s
from .publishing import retry_pause_s

if TYPE_CHECKING:
    from .duplicates import Unsent
    from .unique_claims import Claim

T = TypeVar("T")

Taker = Callable[[str, Sequence[Outgoing], "Claim | None"], None]
"""Takes what is published in place of the broker: the task's id, its messages, its claim to be unique."""

_taker: ContextVar[Taker | None] = ContextVar("prefork_taker", default=None)


def present_taker() -> Taker | None:
    """Who takes what this flow of execution publishes; None for the broker."""
    return _taker.get()


class Collector:
    """Puts what is published into a list: what follows from a task, and is settled with it.

    Of equal unique tasks that follow the same one it takes the first: they have the same id, and so the lock.

    :ivar unsent: what is lost as it is not unique, if whoever collects cares for that.
    """

    def __init__(self, unsent: list[Unsent] | None = None) -> None:
        self.messages: list[Outgoing] = []
        self.unsent = unsent
        self._unique: set[str] = set()

    def __call__(self, task_id: str, messages: Sequence[Outgoing], claim: Claim | None) -> None:
        """Take messages."""
        if claim is not None:
            if task_id in self._unique:
                return
            self._unique.add(task_id)
        self.messages.extend(messages)


class Delivers:
    """The part of a client that its messages leave by."""

    config: Any

    if TYPE_CHECKING:

        @property
        def transport(self) -> Transport:
            """The broker."""

    @contextmanager
    def diverting(self, taker: Taker) -> Iterator[None]:
        """Within it, what this flow of execution publishes is given to `taker` instead of sent."""
        token = _taker.set(taker)
        try:
            yield
        finally:
            _taker.reset(token)

    @contextmanager
    def collecting(self) -> Iterator[list[Outgoing]]:
        """Within it, what this flow of execution publishes is put into the list instead of sent."""
        outer = present_taker()
        collector = Collector(outer.unsent if isinstance(outer, Collector) else None)
        with self.diverting(collector):
            yield collector.messages

    @contextmanager
    def following(self) -> Iterator[Collector]:
        """As `collecting`, and what is to be unique and is not can be looked at, too."""
        collector = Collector([])
        with self.diverting(collector):
            yield collector

    def publish(
        self,
        messages: Sequence[Outgoing],
        task_id: str,
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
        claim: Claim | None = None,
    ) -> None:
        """Hand the messages of a task to the broker, or to whoever diverts them. See `deliver`."""
        taker = _taker.get()
        if taker is not None:
            taker(task_id, messages, claim)
        else:
            self.deliver(messages, retry=retry, policy=policy)

    def deliver(
        self,
        messages: Sequence[Outgoing],
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand messages to the broker; try again for a while if it is away.

        :param retry: None follows `task_publish_retry`.
        :param policy: None follows `task_publish_retry_policy`; never beyond `broker_publish_timeout`.
        :raises BrokerUnavailable: with `outcome_unknown` when a message may have been stored.
        """
        give_up_mono_s = mono_s() + self.config.broker_publish_timeout
        try:
            self.transport.send(messages)
            return
        except BrokerUnavailable as exc:
            failure = exc
        self._persist(partial(self._attempt, messages), failure, give_up_mono_s, retry, policy)

    def _attempt(self, messages: Sequence[Outgoing], _failed: int, left_s: float) -> None:
        if isinstance(self.transport, SendsWithin):
            self.transport.send_within(messages, left_s)
        else:
            self.transport.send(messages)

    def persist(
        self,
        attempt: Callable[[int, float], T],
        *,
        retry: bool | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> T:
        """Do something with the broker; try again for a while if it is away. Parameters as in `deliver`.

        :param attempt: gets how often it has failed, and how many seconds are left.
        :raises BrokerUnavailable: the last one, with `outcome_unknown` if any of them had it.
        """
        give_up_mono_s = mono_s() + self.config.broker_publish_timeout
        try:
            return attempt(0, self.config.broker_publish_timeout)
        except BrokerUnavailable as exc:
            failure = exc
        return self._persist(attempt, failure, give_up_mono_s, retry, policy)

    def _persist(
        self,
        attempt: Callable[[int, float], T],
        failure: BrokerUnavailable,
        give_up_mono_s: float,
        retry: bool | None,
        policy: Mapping[str, Any] | None,
    ) -> T:
        """What follows the first failure: pauses and further attempts."""
        failed = 1
        unknown = failure.outcome_unknown
        wanted = self.config.task_publish_retry if retry is None else retry
        rules = {**self.config.task_publish_retry_policy, **(policy or {})}
        while True:
            pause_s = retry_pause_s(rules, failed) if wanted else None
            if pause_s is None or mono_s() + pause_s >= give_up_mono_s:
                failure.outcome_unknown = unknown
                raise failure
            time.sleep(pause_s)
            try:
                return attempt(failed, give_up_mono_s - mono_s())
            except BrokerUnavailable as exc:
                failure = exc
                failed += 1
                unknown = unknown or exc.outcome_unknown
