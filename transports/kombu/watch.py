"""A watch over queues that say nothing: it fires again and again."""

from __future__ import annotations

from ..timer import Timer


class PollingWatch:
    """Implements `transports.base.Watch`: fires `poll_s` seconds after it was last drained."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._timer = Timer()
        self._timer.after(poll_s)

    def fileno(self) -> int:
        """See `Watch.fileno`."""
        return self._timer.fileno()

    def drain(self) -> None:
        """See `Watch.drain`."""
        self._timer.clear()
        self._timer.after(self._poll_s)

    def close(self) -> None:
        """See `Watch.close`."""
        self._timer.close()
