"""Errors that a transport or a result store raises. All carry data; messages name the remedy."""

from __future__ import annotations

from collections.abc import Mapping


class TransportError(Exception):
    """Base of everything that a transport raises on purpose. Caught by the worker loop.

    :ivar permanent: the same operation with the same content will be refused whenever it is tried, and
        was not carried out. Otherwise the cause passes, or an operator can mend it, and to try again is
        right.
    """

    permanent: bool = False


class Unacceptable(TransportError):
    """A document that the broker or the store will never take, such as one that is too large."""

    permanent = True


class Unroutable(TransportError):
    """No queue is bound where a message was published to; it was not stored.

    :param exchange: empty for the default exchange.
    :param said: who says so, and of what.
    """

    permanent = True

    def __init__(self, exchange: str, routing_key: str, said: str) -> None:
        super().__init__(exchange, routing_key, said)
        self.exchange = exchange
        self.routing_key = routing_key
        self.said = said

    def __str__(self) -> str:
        return (
            f"no queue takes routing key {self.routing_key!r} of exchange {self.exchange!r} ({self.said}); "
            "bind a queue, or correct task_routes"
        )


class BrokerUnavailable(TransportError):
    """The broker could not be reached in time. Raised by every operation; callers may retry.

    :param outcome_unknown: the operation may have taken effect, so a retry must keep the id.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class BrokerFull(BrokerUnavailable):
    """The broker refuses new messages for want of space; what it holds can still be drained."""


class ResultStoreUnavailable(TransportError):
    """The result store could not be reached in time."""


class UnsupportedTransport(TransportError):
    """No transport (or store) is registered for the scheme of a URL."""

    def __init__(self, scheme: str, known: tuple[str, ...], message: str) -> None:
        super().__init__(scheme, tuple(known), message)
        self.scheme = scheme
        self.known = tuple(known)
        self.message = message

    def __str__(self) -> str:
        return self.message


class UnsafeStorage(TransportError):
    """A directory or file of the broker is not what it must be (owner, mode, kind, place).

    Raised at start; found later, such an object is quarantined instead.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


class OwnerLost(TransportError):
    """An owner was recovered by somebody else (or closed), so it must not reserve any more.

    Raised by `Consumer.reserve`, because nobody would ever recover what such an owner took. The worker
    loop answers it by ending its process, or by opening a consumer with a new owner.
    """

    def __init__(self, owner: str, why: str) -> None:
        super().__init__(owner, why)
        self.owner = owner
        self.why = why

    def __str__(self) -> str:
        return f"owner {self.owner}: {self.why}"


class LeasesHeld(TransportError):
    """Workers may still be at work on what was to be taken from them.

    :param leases: worker -> seconds until its lease ends, unless it is renewed.
    """

    def __init__(self, leases: Mapping[str, float]) -> None:
        self.leases = dict(leases)
        super().__init__(self.leases)

    def __str__(self) -> str:
        shown = ", ".join(f"{worker} ({left_s:.0f} s)" for worker, left_s in sorted(self.leases.items()))
        return f"workers hold leases: {shown}; stop them, or wait until the leases of dead ones run out"
