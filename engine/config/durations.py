"""Durations as people write them: ``90``, ``1.5h``, ``1m30s``, ``500ms``."""

from __future__ import annotations

import re

_UNIT_S = (("d", 86400.0), ("h", 3600.0), ("ms", 0.001), ("m", 60.0), ("s", 1.0))
_SECONDS_OF = dict(_UNIT_S)
_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"

# Texts, compiled by `re` on first use: most programs never parse a duration.
_BARE = rf"(?a:{_NUMBER})\Z"
_PART = rf"(?a:{_NUMBER}\s*(ms|d|h|m|s)\s*)"


def parse_duration(text: str) -> float:
    """A duration in seconds.

    Either a bare number of seconds, or parts with a unit (d, h, m, s, ms), each unit at most once
    and the larger first.

    :raises ValueError: `text` is neither.
    """
    stripped = text.strip()
    bare = re.match(_BARE, stripped)
    if bare is not None:
        return float(bare[1])
    total_s = 0.0
    position = 0
    smallest_s = float("inf")
    while position < len(stripped):
        part = re.match(_PART, stripped[position:])
        if part is None or _SECONDS_OF[part[2]] >= smallest_s:
            raise ValueError(f"{text!r} is not a duration: write seconds (90) or parts (1m30s, 500ms)")
        smallest_s = _SECONDS_OF[part[2]]
        total_s += float(part[1]) * smallest_s
        position += part.end()
    if position == 0:
        raise ValueError("an empty text is not a duration: write seconds (90) or parts (1m30s)")
    return total_s


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as the same number of whole milliseconds."""
    left_ms = round(seconds * 1000)
    if left_ms == 0:
        return "0s"
    parts = []
    for unit, size_s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left_ms = divmod(left_ms, size_s * 1000)
        if count:
            parts.append(f"{count}{unit}")
    if left_ms:
        parts.append(f"{left_ms}ms")
    return "".join(parts)
