"""Parts of a page between two remarks, so that each can be written without touching the others."""

from __future__ import annotations


def part(page: str, name: str) -> str:
    """What stands between ``<!-- name -->`` and ``<!-- end of name -->``; empty if there is no such part."""
    _, found, rest = page.partition(_begin(name))
    return rest.partition(_end(name))[0].strip("\n") if found else ""


def with_part(page: str, name: str, body: str) -> str:
    """The page with that part replaced, or added at its end.

    :raises ValueError: the part begins and does not end.
    """
    whole = f"{_begin(name)}\n{body.strip()}\n{_end(name)}"
    before, found, rest = page.partition(_begin(name))
    if not found:
        return f"{page.rstrip()}\n\n{whole}\n"
    _, ended, after = rest.partition(_end(name))
    if not ended:
        raise ValueError(f"there is no {_end(name)!r} after {_begin(name)!r}")
    return before + whole + after


def _begin(name: str) -> str:
    return f"<!-- {name} -->"


def _end(name: str) -> str:
    return f"<!-- end of {name} -->"
