"""How often a result store is asked again when the server fails. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOTAL_S = 30.0
"""However often repeating is allowed, one call sleeps no longer than this in all."""


@dataclass(frozen=True)
class RetryRule:
    """When to repeat an operation that failed.

    :param always: repeat with growing pauses; otherwise once, at once, and only over a new connection.
    :param most: repetitions at most.
    """

    always: bool = False
    most: float = math.inf
    base_ms: float = 10.0
    longest_ms: float = 10_000.0

    def pause_s(self, failed: int, *, broken: bool) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        :param failed: how many attempts have failed, from 1.
        :param broken: the connection did; a server that is full will not have room at once.
        """
        if not self.always:
            return 0.0 if broken and failed == 1 else None
        if failed > self.most:
            return None
        slept_s = sum(self._step_s(before) for before in range(1, min(failed, 64)))
        step_s = self._step_s(failed)
        return None if slept_s + step_s > TOTAL_S else step_s

    def _step_s(self, failed: int) -> float:
        return min(self.base_ms * 2.0 ** min(failed - 1, 30), self.longest_ms) / 1000


def read_rule(options: Mapping[str, Any]) -> RetryRule:
    """The rule that `result_backend_always_retry` and its companions describe."""
    return RetryRule(
        always=bool(options.get("result_backend_always_retry", False)),
        most=float(options.get("result_backend_max_retries", math.inf)),
        base_ms=max(1.0, float(options.get("result_backend_base_sleep_between_retries_ms", 10))),
        longest_ms=float(options.get("result_backend_max_sleep_between_retries_ms", 10_000)),
    )
