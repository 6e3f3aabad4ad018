"""A logical clock: what is said later bears a higher number, whoever says it (interop §11.3)."""

from __future__ import annotations

import threading
from typing import Any, Final

LATEST: Final = (1 << 53) - 1
"""No clock goes beyond: every reader of JSON can represent it."""


class LamportClock:
    """Safe to use from several threads.

    :param value: where it starts.
    """

    def __init__(self, value: int = 0) -> None:
        self._lock = threading.Lock()
        self._value = value  # written under the lock

    @property
    def value(self) -> int:
        """What it shows now."""
        return self._value

    def forward(self) -> int:
        """The number of something that happens here."""
        with self._lock:
            self._value = min(self._value + 1, LATEST)
            return self._value

    def adjust(self, heard: Any) -> int:
        """Be later than what was heard; what is no number of a clock changes nothing."""
        if isinstance(heard, int) and not isinstance(heard, bool) and 0 <= heard < LATEST:
            with self._lock:
                self._value = max(self._value, heard) + 1
        return self._value
