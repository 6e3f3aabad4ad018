"""Plain tables and JSON on standard output. Standard library only."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# In a JSON document of ours: whatever a terminal could take for more than a character.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """Text that cannot move the cursor or forge a line: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def safe_lines(text: str) -> str:
    """The same for a text of several lines, such as a traceback."""
    return "\n".join(safe(line) for line in text.split("\n"))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; numbers to the right."""
    body = [["" if cell is None else safe(str(cell)) for cell in row] for row in rows]
    lines = [[heading.upper() for heading in headings], *body]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    numeric = [bool(body) and all(_is_number(row[column]) for row in body) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def as_json(value: Any) -> str:
    """One JSON document; what JSON does not know is shown as text, what a terminal would obey is escaped."""
    document = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def complain(text: str) -> None:
    """Print an error or a remark for the person at the terminal."""
    sys.stderr.write(f"prefork: {safe_lines(text)}\n")


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace("-", "", 1).isdigit()
