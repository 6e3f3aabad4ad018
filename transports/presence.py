"""Who works on the messages of a broker, where it has a list of that.

Every implementation passes `tests/transports/conformance/test_presence.py`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class KnowsWorkers(Protocol):
    """A transport whose workers keep leases. Safe to use from several threads."""

    def workers(self) -> list[str]:
        """The workers of ours whose lease goes on, sorted: those that have not lapsed or unregistered.

        A worker is among them before it can hold a message.

        :raises BrokerUnavailable: the broker cannot be reached.
        """
