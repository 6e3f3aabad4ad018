"""The fields of a crontab: what they may say, and the set of numbers that this means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class ParseException(Exception):
    """A crontab field that cannot be read. The message shows the field and what is wrong with it."""


class Field(NamedTuple):
    """One field: its name and the numbers it may hold, both ends included."""

    name: str
    least: int
    greatest: int
    names: tuple[str, ...] = ()


_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day_of_week", 0, 6, _WEEKDAYS),
    Field("day_of_month", 1, 31),
    Field("month_of_year", 1, 12, _MONTHS),
)
"""In the order of the parameters of `crontab`."""

_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\w+))?\Z", re.ASCII)


def parse_field(field: Field, value: Any) -> frozenset[int]:
    """The numbers that a field allows.

    :param value: text, a number, or a collection of numbers.
    :raises ParseException: the text cannot be read.
    :raises ValueError: a number out of range.
    :raises TypeError: neither of these kinds.
    """
    if isinstance(value, bool) or value is None:
        raise TypeError(f"crontab {field.name}={value!r}: give a text, a number or a set of numbers")
    if isinstance(value, int):
        return frozenset({_checked(field, value)})
    if isinstance(value, str):
        found = frozenset(number for part in value.split(",") for number in _part(field, part, value))
    elif isinstance(value, Iterable):
        found = frozenset(_checked(field, number) for number in value)
    else:
        raise TypeError(f"crontab {field.name}={value!r}: give a text, a number or a set of numbers")
    if not found:
        raise ParseException(f"crontab {field.name}={value!r} allows nothing")
    return found


def _checked(field: Field, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"crontab {field.name}: {number!r} is not a whole number")
    if not field.least <= number <= field.greatest:
        raise ValueError(
            f"crontab {field.name}: {number} is out of range ({field.least} to {field.greatest})"
        )
    return number


def _number(field: Field, text: str, whole: str) -> int:
    if text.isdigit():
        return _checked(field, int(text))
    name = text[:3].lower()
    if len(text) >= 3 and name in field.names:
        return field.names.index(name) + field.least
    raise ParseException(f"crontab {field.name}={whole!r}: cannot read {text!r}")


def _part(field: Field, text: str, whole: str) -> list[int]:
    """One item of a list: ``*``, ``a``, ``a-b``, ``*/n`` or ``a-b/n``."""
    match = _PART.match(text.strip())
    if match is None:
        raise ParseException(f"crontab {field.name}={whole!r}: cannot read {text!r}")
    first, last, step = match["first"], match["last"], match["step"]
    if first == "*":
        if last is not None:
            raise ParseException(f"crontab {field.name}={whole!r}: {text!r} mixes * and a range")
        numbers = list(range(field.least, field.greatest + 1))
    elif last is None:
        if step is not None:
            raise ParseException(
                f"crontab {field.name}={whole!r}: {text!r} has a step without a range; write "
                f"{first}-{field.greatest}/{step}"
            )
        return [_number(field, first, whole)]
    else:
        numbers = _range(field, _number(field, first, whole), _number(field, last, whole))
    if step is None:
        return numbers
    if not step.isdigit() or int(step) < 1:
        raise ParseException(f"crontab {field.name}={whole!r}: the step {step!r} is not a positive number")
    return numbers[:: int(step)]


def _range(field: Field, first: int, last: int) -> list[int]:
    """From first to last, both included; around the end of the field when last is less."""
    if last >= first:
        return list(range(first, last + 1))
    return [*range(first, field.greatest + 1), *range(field.least, last + 1)]
