"""Brokers and stores that refuse what is large, and the dead letters that come of it."""

from __future__ import annotations

from typing import Any

from prefork.engine.app import App
from prefork.transports.base import Verdict
from prefork.transports.errors import Unacceptable

LIMIT_BYTES = 5000


def check(results: Any, messages: Any) -> None:
    """Refuse what is larger than the limit, as a server would."""
    for one in (*results, *messages):
        if len(one.document) > LIMIT_BYTES:
            raise Unacceptable(f"{len(one.document)} bytes are too large")


class Small:
    """A broker or store that takes nothing large. Counts what it refused.

    :param broken: it refuses every dead letter, too.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.refused = 0
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _checked(self, results: Any, messages: Any) -> None:
        try:
            check(results, messages)
        except Unacceptable:
            self.refused += 1
            raise

    def store(self, results: Any) -> None:
        self._checked(results, ())
        self._inner.store(results)

    def send(self, messages: Any) -> None:
        self._checked((), messages)
        self._inner.send(messages)

    def settle(self, outcomes: Any) -> Any:
        for one in outcomes:
            self._checked(one.results, one.follow_ups)
            if self.broken and one.verdict is Verdict.DEAD:
                raise Unacceptable("no dead letters")
        return self._inner.settle(outcomes)


def letters(app: App) -> list[tuple[str, str]]:
    """Reason and last cause of each dead letter."""
    return [(one.reason, one.causes[-1]) for one in app.client.transport.dead_letters()]
