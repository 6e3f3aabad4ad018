"""Third-party transports and result stores, found by entry point.

Kept apart from the registry because the standard library's reader of package metadata costs more to
import than a whole built-in transport; it is loaded only for a scheme that is not built in.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by scheme; the first installed of equal names wins."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, point)
    return found
