"""What values a setting takes: one parser per kind of value, for Python values and for text alike.

A parser returns the value as the configuration keeps it, or raises `ValueError` with a sentence
that says what is accepted. Text comes from the environment, the command line or a TOML file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta, tzinfo
from typing import Any

from .durations import parse_duration

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_NONE = frozenset({"", "none", "null"})
# Texts, compiled by `re` on first use.
_RATE = r"[0-9]+(\.[0-9]+)?(/[smh])?\Z"
_FORMAT_FIELD = r"%(?:%|\([A-Za-z_]\w*\)[-#0 +]*\d*(?:\.\d+)?[sdrfaixX])"
_LEVELS = ("CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET")


class Kind:
    """A kind of value.

    :param name: for the reference page.
    :param parse: raw value to kept value.
    :param takes_objects: a class, function or other Python object is a sensible value.
    """

    __slots__ = ("name", "parse", "takes_objects")

    def __init__(self, name: str, parse: Callable[[object], Any], *, takes_objects: bool = False) -> None:
        self.name = name
        self.parse = parse
        self.takes_objects = takes_objects


def optional(kind: Kind) -> Kind:
    """The same, or None (in text: ``none``, ``null`` or nothing)."""

    def parse(raw: object) -> Any:
        if raw is None or (isinstance(raw, str) and raw.strip().lower() in _NONE):
            return None
        return kind.parse(raw)

    return Kind(f"{kind.name} or none", parse, takes_objects=kind.takes_objects)


def zero_is_none(kind: Kind) -> Kind:
    """The same, or None; 0 also says None, where Celery has always read it so."""

    def parse(raw: object) -> Any:
        if raw is None or (isinstance(raw, str) and raw.strip().lower() in _NONE):
            return None
        value = kind.parse(raw)
        return None if value == 0 else value

    return Kind(f"{kind.name}; 0 or none", parse)


def _boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int) and raw in (0, 1):
        return bool(raw)
    if isinstance(raw, str):
        word = raw.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise ValueError("write true or false")


def _whole(raw: object) -> int:
    if isinstance(raw, bool):
        raise ValueError("write a whole number")
    if isinstance(raw, int):
        return raw
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    if isinstance(raw, str):
        try:
            return int(raw.strip(), 10)
        except ValueError:
            pass  # the sentence below says it better
    raise ValueError("write a whole number")


def _number(raw: object) -> float:
    if isinstance(raw, str):
        try:
            raw = float(raw.strip())
        except ValueError:
            raise ValueError("write a number") from None
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or math.isnan(raw):
        raise ValueError("write a number")
    return float(raw)


def integer(minimum: int | None = None, maximum: int | None = None) -> Kind:
    """A whole number within bounds, both included."""

    def parse(raw: object) -> int:
        value = _whole(raw)
        _bounds(value, minimum, maximum)
        return value

    return Kind("integer", parse)


def number(minimum: float | None = None, maximum: float | None = None) -> Kind:
    """A number within bounds, both included."""

    def parse(raw: object) -> float:
        value = _number(raw)
        _bounds(value, minimum, maximum)
        return value

    return Kind("number", parse)


def _bounds(value: float, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and value < minimum:
        raise ValueError(f"the least value is {minimum:g}")
    if maximum is not None and value > maximum:
        raise ValueError(f"the greatest value is {maximum:g}")


def seconds(*, positive: bool = False) -> Kind:
    """A duration, kept as float seconds; takes numbers, timedelta and text such as ``1m30s``."""

    def parse(raw: object) -> float:
        if isinstance(raw, timedelta):
            value = raw.total_seconds()
        elif isinstance(raw, str):
            value = parse_duration(raw)
        else:
            value = _number(raw)
        if math.isinf(value):
            raise ValueError("write a finite number of seconds")
        if value < 0 or (positive and value == 0):
            raise ValueError(
                "a duration must be more than 0 s" if positive else "a duration cannot be negative"
            )
        return value

    return Kind("seconds", parse)


def _text(raw: object) -> str:
    if isinstance(raw, str):
        return raw
    if isinstance(raw, (list, tuple, dict, set, bool)) or not hasattr(raw, "__fspath__"):
        raise ValueError("write a text")
    return str(raw)


def _word(raw: object) -> str:
    value = _text(raw).strip()
    if not value:
        raise ValueError("write a text that is not empty")
    return value


def choice(*words: str) -> Kind:
    """One of a closed set of words."""

    def parse(raw: object) -> str:
        value = raw.strip().lower() if isinstance(raw, str) else raw
        if value not in words:
            raise ValueError(f"write one of: {', '.join(words)}")
        return str(value)

    return Kind(" | ".join(words), parse)


def _names(raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if isinstance(raw, Mapping) or not isinstance(raw, Iterable):
        raise ValueError("write a list of names")
    names = tuple(sorted(raw)) if isinstance(raw, (set, frozenset)) else tuple(raw)
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("every item of the list must be a name")
    return names


def _mapping(raw: object) -> dict[Any, Any]:
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError:
            raise ValueError('write a map; as text in JSON: {"key": "value"}') from None
    if not isinstance(raw, Mapping):
        raise ValueError('write a map; as text in JSON: {"key": "value"}')
    return dict(raw)


def _structure(raw: object) -> Any:
    """Any Python value; text that begins like JSON is read as JSON."""
    if isinstance(raw, str) and raw.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(raw)
        except ValueError:
            raise ValueError("this begins like JSON but is not") from None
    return raw


def _urls(raw: object) -> str:
    parts = raw if isinstance(raw, (list, tuple)) else (raw,)
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise ValueError("write a URL, or several for failover (a list, or separated by ';')")
    return ";".join(str(part).strip() for part in parts)


def _rate(raw: object) -> str | float:
    if isinstance(raw, bool):
        raise ValueError("write a rate")
    if isinstance(raw, (int, float)) and raw >= 0 and math.isfinite(raw):
        return raw
    if isinstance(raw, str) and re.match(_RATE, raw.strip()):
        return raw.strip()
    raise ValueError("write a rate such as 10/s, 100/m or 1000/h")


def _log_format(raw: object) -> str:
    value = _text(raw)
    if "%" in re.sub(_FORMAT_FIELD, "", value):
        raise ValueError("every % must begin a field such as %(message)s, or be doubled")
    return value


def _log_level(raw: object) -> str | int:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= 100:
        return raw
    if isinstance(raw, str) and raw.strip().upper() in _LEVELS:
        return raw.strip().upper()
    raise ValueError(f"write one of: {', '.join(_LEVELS)}")


def _concurrency(raw: object) -> int | str:
    if isinstance(raw, str) and raw.strip().lower() == "auto":
        return "auto"
    value = _whole(raw)
    _bounds(value, 1, 1024)
    return value


def _delivery_mode(raw: object) -> int:
    modes = {"1": 1, "transient": 1, "2": 2, "persistent": 2}
    mode = None if isinstance(raw, bool) else modes.get(str(raw).strip().lower())
    if mode is None:
        raise ValueError("write 2 (persistent) or 1 (transient)")
    return mode


def _time_zone(raw: object) -> str:
    """A name, or a time zone object that has one (zoneinfo calls it key, pytz calls it zone)."""
    if isinstance(raw, tzinfo):
        raw = getattr(raw, "key", None) or getattr(raw, "zone", None) or str(raw)
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError("write the name of a time zone, such as Europe/Berlin")
    return raw.strip()


def _secret(raw: object) -> str | bytes:
    return raw if isinstance(raw, bytes) else _text(raw)


def _flag_or_map(raw: object) -> Any:
    is_map = isinstance(raw, Mapping) or (isinstance(raw, str) and raw.lstrip().startswith("{"))
    return _mapping(raw) if is_map else _boolean(raw)


BOOLEAN = Kind("boolean", _boolean)
COUNT = integer(0)
POSITIVE = integer(1)
PRIORITY = integer(0, 255)
SECONDS = seconds()
DURATION = seconds(positive=True)
TEXT = Kind("text", _text)
WORD = Kind("text", _word)
NAMES = Kind("list of names", _names)
MAP = Kind("map", _mapping)
STRUCTURE = Kind("Python value or JSON", _structure, takes_objects=True)
OBJECT = Kind("object or its dotted name", lambda raw: raw, takes_objects=True)
URLS = Kind("URL, or several", _urls)
RATE = Kind("rate such as 100/m", _rate)
LOG_FORMAT = Kind("log format", _log_format)
LOG_LEVEL = Kind("log level", _log_level)
CONCURRENCY = Kind("integer 1 to 1024, or auto", _concurrency)
DELIVERY_MODE = Kind("1 | 2", _delivery_mode)
TIMEZONE = Kind("name of a time zone", _time_zone)
SECRET = Kind("text or bytes", _secret)
FLAG_OR_MAP = Kind("boolean or map", _flag_or_map)
