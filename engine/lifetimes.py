"""How long results are kept."""

from __future__ import annotations

from typing import Any, NamedTuple

from .publishing import seconds
from .states import FAILURE


class Lifetimes(NamedTuple):
    """How long results are kept, in seconds; None keeps them."""

    others_s: float | None
    failures_s: float | None

    def of(self, state: str) -> float | None:
        """The lifetime of a document of a state."""
        return self.failures_s if state == FAILURE else self.others_s


def lifetimes(config: Any) -> Lifetimes:
    """`result_expires`, and `result_failure_expires` where that differs; 0 keeps, as None does."""
    others_s = seconds(config.result_expires) or None
    failures_s = config.result_failure_expires
    return Lifetimes(others_s, others_s if failures_s is None else seconds(failures_s) or None)
