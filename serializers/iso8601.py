"""Times as text, the same on every Python: what peers write, and nothing looser.

The parsers of the standard library differ between versions (3.10 takes neither ``Z`` nor the
short forms), so a message would be malformed on one worker and fine on the next.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_FORM = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)"
    r"(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"(?:(Z)|([+-])(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?)?)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
TEXT_CHARS_MAX = 64


def parse(text: str) -> datetime:
    """Read an ISO 8601 calendar date, with or without time and offset (interop §2.5).

    :returns: an aware datetime when the text has an offset, else a naive one.
    :raises ValueError: not such a text, or no such time.
    """
    found = _FORM.fullmatch(text) if len(text) <= TEXT_CHARS_MAX else None
    if found is None:
        raise ValueError(f"not an ISO 8601 time: {text[:TEXT_CHARS_MAX]!r}")
    year, month, day, hour, minute, second, fraction, zulu, sign, *offset = found.groups()
    zone = timezone.utc if zulu else _zone(sign, offset) if sign else None
    return datetime(
        int(year),
        int(month),
        int(day),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        int(_six_digits(fraction)),
        zone,
    )


def parse_unix(text: str) -> float:
    """Read an ISO 8601 time as Unix time in seconds; one without offset is UTC (interop §2.5).

    :raises ValueError: as `parse`.
    """
    return unix(parse(text))


def unix(when: datetime) -> float:
    """Unix time in seconds of a datetime; a naive one is taken as UTC."""
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return (when - _EPOCH) / timedelta(seconds=1)


def utc_text(wall_s: float) -> str:
    """The text of a Unix time, always aware and in UTC: ``2024-01-02T00:00:00+00:00``.

    :raises ValueError: NaN, infinite, or outside the years 1 to 9999.
    """
    try:
        return (_EPOCH + timedelta(seconds=wall_s)).isoformat()
    except (OverflowError, ValueError) as exc:
        raise ValueError(f"not a time that can be written: {wall_s!r}") from exc


def _zone(sign: str, parts: list[str | None]) -> timezone:
    hours, minutes, seconds, microseconds = (int(part or 0) for part in (*parts[:3], _six_digits(parts[3])))
    if minutes > 59 or seconds > 59:
        raise ValueError(f"no UTC offset has {minutes} minutes and {seconds} seconds")
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=microseconds)
    return timezone(-offset if sign == "-" else offset)


def _six_digits(fraction: str | None) -> str:
    """Microseconds of the digits behind the point; finer ones are cut off."""
    return (fraction or "")[:6].ljust(6, "0")
