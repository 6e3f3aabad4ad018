"""A process that cannot boot is not forked in a loop: back-off, then a stop."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 10.0


def backoff_s(
    failures: int, fraction: float, *, first_s: float = FIRST_DELAY_S, last_s: float = LAST_DELAY_S
) -> float:
    """How long to wait after so many failures in a row.

    :param fraction: random in [0, 1); half of the delay is jitter, so that workers that failed
        together do not try again together.
    """
    if failures <= 0:
        return 0.0
    full_s = min(last_s, first_s * 2.0 ** min(failures - 1, 32))
    return full_s * (0.5 + fraction / 2)


def fraction() -> float:
    """A random number in [0, 1). The random module would bring in OpenSSL, a megabyte here."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


class BootGuard:
    """Counts failures since the last success.

    :param failures_max: so many in a row are too many.
    :param random: numbers in [0, 1).
    """

    def __init__(self, failures_max: int, random: Callable[[], float]) -> None:
        self.failures_max = failures_max
        self._random = random
        self.failures = 0
        self.not_before_s = 0.0

    def failed(self, now_s: float) -> None:
        """A process could not boot."""
        self.failures += 1
        self.not_before_s = now_s + backoff_s(self.failures, self._random())

    def succeeded(self) -> None:
        """A process is ready."""
        self.failures = 0
        self.not_before_s = 0.0

    def may_fork(self, now_s: float) -> bool:
        """Whether the back-off is over."""
        return now_s >= self.not_before_s

    @property
    def exhausted(self) -> bool:
        """Too many failures with no success between them."""
        return self.failures >= self.failures_max
