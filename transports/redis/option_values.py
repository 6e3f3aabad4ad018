"""Options of the Redis transport, one at a time: read from URL, mapping or text, refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import TransportError

T = TypeVar("T")

_SECRET = re.compile(r"pass|secret|token|credential", re.IGNORECASE)
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class InvalidOption(TransportError, ValueError):
    """An option of the Redis broker or result store has a value that it cannot have.

    :param name: the option.
    :param value: as it may be shown.
    :param why: what it must be.
    """

    def __init__(self, name: str, value: str, why: str) -> None:
        super().__init__(name, value, why)
        self.name = name
        self.value = value
        self.why = why

    def __str__(self) -> str:
        return f"the redis option {self.name} = {self.value} {self.why}"


def invalid_option(name: str, value: object, why: str) -> InvalidOption:
    """The error for a value, which is not shown where the option may hold a secret."""
    return InvalidOption(name, "**" if _SECRET.search(name) else repr(value), why)


class Options:
    """A mapping of options that reads each by name. What nobody reads has no effect."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def _get(self, name: str, default: T, read: Callable[[str, Any], T]) -> T:
        value = self._values.get(name)
        return default if value is None else read(name, value)

    def raw(self, name: str) -> Any:
        """The value as it stands; None where there is none."""
        return self._values.get(name)

    def text(self, name: str, default: str = "") -> str:
        """A text; None counts as not given, in all of these."""
        return self._get(name, default, _text)

    def flag(self, name: str, default: bool) -> bool:
        """True or false, also as a word."""
        return self._get(name, default, _flag)

    def count(self, name: str, default: int, *, least: int = 0) -> int:
        """A whole number."""
        value = self._get(name, default, _count)
        if value < least:
            raise invalid_option(name, value, f"must be at least {least}")
        return value

    def seconds(self, name: str, default: float) -> float:
        """A positive number of seconds: no wait is without end here."""
        value = self._get(name, default, _number)
        if not 0 < value < 1e9:
            raise invalid_option(name, value, "must be a positive number of seconds")
        return value

    def mapping(self, name: str) -> Mapping[Any, Any]:
        """A mapping; empty where there is none."""
        return self._get(name, {}, _mapping)

    def steps(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Ascending whole numbers, as a list or as a text with commas."""
        return self._get(name, default, _steps)


def _text(name: str, value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    if not isinstance(value, str):
        raise invalid_option(name, value, "must be a text")
    return value


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise invalid_option(name, value, "must be true or false")


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise invalid_option(name, value, "must be a number") from None


def _count(name: str, value: Any) -> int:
    number = _number(name, value)
    if not number.is_integer():
        raise invalid_option(name, value, "must be a whole number")
    return int(number)


def _mapping(name: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise invalid_option(name, value, "must be a map")
    return value


def _steps(name: str, value: Any) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple, set, frozenset, range)):
        raise invalid_option(name, value, "must be a list of numbers")
    steps = tuple(_count(name, part) for part in parts)
    if not steps or steps[0] != 0 or list(steps) != sorted(set(steps)) or steps[-1] > 255:
        raise invalid_option(name, value, "must be ascending numbers that begin with 0")
    return steps
