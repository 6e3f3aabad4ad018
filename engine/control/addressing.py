"""Which workers a request is for (interop §11.3). Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

PATTERN_LENGTH_MAX: Final = 255
_REPEATS_MAX: Final = 3
# In how many ways the alternatives of all groups may be combined.
_WAYS_MAX: Final = 64
_ESCAPED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
# Behind a bracket in a comment the rest would look like a set of characters.
_COMMENT = re.compile(r"\(\?(?:#|[a-zA-Z]*x)")
# A question mark repeats, too, unless it begins the extension of a group or makes another one lazy.
_REPEAT = re.compile(r"[*+{]|(?<![(*+?}])\?")
_REPEATED_GROUP = re.compile(r"\)[*+{]")


def is_addressed(
    node: str, destination: Sequence[str] | None, pattern: str | None, matcher: str | None
) -> bool:
    """Whether a request is for the worker of this name.

    :param destination: names; empty and None mean everybody, unless there is a pattern.
    :param pattern: of names; only in force together with `matcher`.
    :param matcher: ``glob`` or ``pcre``.
    :raises ValueError: the matcher is unknown, or the pattern cannot be used.
    """
    if destination and node in destination:
        return True
    if pattern and matcher:
        return matches(node, pattern, matcher)
    return not destination


def matches(node: str, pattern: str, matcher: str) -> bool:
    """Whether a name has the form of a pattern.

    :raises ValueError: the matcher is unknown, or the pattern cannot be used.
    """
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise ValueError(f"a pattern of {len(pattern)} characters, of at most {PATTERN_LENGTH_MAX}")
    if matcher == "glob":
        return fnmatch.fnmatch(node, pattern)
    if matcher != "pcre":
        raise ValueError(f"matcher {matcher!r:.60}: glob and pcre are known")
    _check_effort(pattern)
    try:
        return re.match(pattern, node) is not None
    except re.error as error:
        raise ValueError(f"{pattern!r} is no pattern: {error}") from None


def _check_effort(pattern: str) -> None:
    """Refuse what the standard library may take for ever over, and the worker with it.

    :raises ValueError: it is such a one.
    """
    if _COMMENT.search(pattern):
        raise ValueError(f"{pattern!r}: comments are not taken")
    plain = _ESCAPED.sub("x", pattern)
    if _REPEATED_GROUP.search(plain) or len(_REPEAT.findall(plain)) > _REPEATS_MAX:
        raise ValueError(f"{pattern!r}: at most {_REPEATS_MAX} repetitions, and of single characters")
    groups = plain.count("(")
    # The most that so many alternatives come to: spread evenly, one group after the other.
    if groups and (plain.count("|") / groups + 1) ** groups > _WAYS_MAX:
        raise ValueError(f"{pattern!r}: too many groups with alternatives; name the workers instead")
