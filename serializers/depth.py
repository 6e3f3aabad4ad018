"""How deeply JSON is nested, found without recursion.

The parsers recurse in C and stop at the interpreter's recursion limit. Whoever raises that limit
(`sys.setrecursionlimit`, common in programs that recurse) also lifts this guard on Python 3.10 and 3.11:
a hundred kilobytes of ``[`` then overflow the C stack and kill the process (measured: 20,000 levels
fit into a stack of 8 MiB, 50,000 do not).
"""

from __future__ import annotations

import re
import sys

LEVELS_MAX = 15_000
"""Beyond this a parser is never tried, whatever the recursion limit says."""

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{\]}]', re.DOTALL)
_OPENING = b"[{"
_CLOSING = b"]}"


def overflows(data: bytes) -> bool:
    """Whether a JSON text could overflow the C stack of whoever parses it."""
    return sys.getrecursionlimit() > LEVELS_MAX and nests_deeper(data, LEVELS_MAX)


def nests_deeper(data: bytes, levels: int) -> bool:
    """Whether a JSON text is nested more deeply than so many levels; for other text, any answer."""
    if data.count(b"[") + data.count(b"{") <= levels:
        return False
    depth = 0
    for token in _TOKEN.finditer(data):
        first = token[0][:1]
        if first in _OPENING:
            depth += 1
            if depth > levels:
                return True
        elif first in _CLOSING:
            depth -= 1
    return False
