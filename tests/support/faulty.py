"""Transports, stores and consumers that fail on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from prefork.transports.errors import BrokerUnavailable


class Faulty:
    """Passes everything on to another object; calls of a name fail as often as was asked for.

    :param after: the failing call has its effect before it fails.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._failures: Counter[str] = Counter()
        self._error: Callable[[], Exception] = lambda: BrokerUnavailable("the broker is away")
        self._after = False
        self.calls: Counter[str] = Counter()
        # Since Python 3.12 a protocol is recognized by what is there, not by what __getattr__ would give.
        for name in dir(inner):
            if not name.startswith("_") and callable(getattr(type(inner), name, None)):
                setattr(self, name, self._passing(name))

    def fail(
        self, name: str, times: int, error: Callable[[], Exception] | None = None, *, after: bool = False
    ) -> None:
        """Let the next calls of a method fail."""
        self._failures[name] = times
        self._after = after
        if error is not None:
            self._error = error

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._passing(name) if callable(found) else found

    def _passing(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            found = getattr(self._inner, name)
            if self._failures[name]:
                self._failures[name] -= 1
                if self._after:
                    found(*args, **kwargs)
                raise self._error()
            return found(*args, **kwargs)

        return call
