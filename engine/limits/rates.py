"""Rates as people write them: ``"10/s"``, ``"100/m"``, ``"5/h"``, a number (per second), 0, None."""

from __future__ import annotations

import math
import re
from typing import Final

from ..exceptions import ImproperlyConfigured

_RATE: Final = r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?\s*\Z"
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
FASTEST_PER_S: Final = 1e9


def rate_per_s(rate: object, where: str) -> float | None:
    """Tokens a second; 0 pauses, None does not limit.

    :param rate: as people write it; it may be anything, since it comes from settings and commands.
    :param where: what is given the rate, for the error.
    :raises ImproperlyConfigured: it is no rate.
    """
    if rate is None:
        return None
    value: float | None = None
    if isinstance(rate, str):
        found = re.match(_RATE, rate)
        if found:
            value = float(found[1]) / _SECONDS[found[2]]
    elif isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate >= 0 and math.isfinite(rate):
        value = float(rate)
    if value is None:
        raise ImproperlyConfigured(
            f"{where}: {rate!r} is no rate; write 10/s, 100/m, 5/h, a number of tasks a second, 0 (which "
            "pauses them) or None"
        )
    return min(value, FASTEST_PER_S)
