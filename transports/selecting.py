"""What a consumer may be able to do beyond `base.Consumer`: to be told where to take from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .values import Delivery


@runtime_checkable
class Selects(Protocol):
    """A consumer that can be asked for the messages of one queue, be it one of its own or not."""

    def reserve_from(self, queue: str, max_n: int) -> list[Delivery]:
        """Take up to `max_n` messages of this queue alone, as `Consumer.reserve` does, without waiting.

        They are settled, given back and recovered like all others of this owner; whatever the
        last reserve brought must be settled or given back before.

        :raises BrokerUnavailable: the broker cannot be reached.
        :raises OwnerLost: as `Consumer.reserve`.
        """


@runtime_checkable
class Rotates(Protocol):
    """A consumer that can look at other priorities before the best one, so that none waits for ever."""

    def reserve_rotated(self, by: int, max_n: int, queue: str | None = None) -> list[Delivery]:
        """Take up to `max_n` messages as `Consumer.reserve` does, without waiting, in another order.

        The best priority comes last, so that whatever else waits is taken before it. The others keep their
        order, but begin with the one after the best `by`, and those before it follow. A broker that tells
        fewer than ten apart begins again with the second best for every `by` that has none left.

        :param by: 0 to 9; 0 changes nothing.
        :param queue: take from this one alone, as `Selects.reserve_from` does; None is all of its own.
        :raises BrokerUnavailable: the broker cannot be reached.
        :raises OwnerLost: as `Consumer.reserve`.
        """
