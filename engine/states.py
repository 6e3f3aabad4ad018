"""Task states: names, the sets they fall into, and their order of precedence (interop §8.2)."""

from __future__ import annotations

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"
ABORTED = "ABORTED"  # asked to stop, see abortable; not final
SNOOZED = "SNOOZED"
"""What became of one execution that ends with `Snooze`; it is never stored."""

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

PRECEDENCE = (SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING)
"""Highest first; None stands for every custom state."""

_RANK = {name: rank for rank, name in enumerate(PRECEDENCE)}
_CUSTOM_RANK = _RANK[None]


def precedence(name: str) -> int:
    """The rank of a state, 0 being the highest; custom states rank between FAILURE and REVOKED."""
    return _RANK.get(name, _CUSTOM_RANK)


class state(str):
    """A state name that compares by precedence: ``state("PENDING") < state("SUCCESS")``."""

    __slots__ = ()

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
