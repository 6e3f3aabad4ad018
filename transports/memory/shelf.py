"""Result and group documents of a memory broker, with their expiry.

Every method is called under the lock of the broker; `now_wall_s` is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..base import StoredResult
from ..result_state import is_success


@dataclass(frozen=True, slots=True)
class Kept:
    """One document; it is gone from `ends_wall_s` on."""

    document: bytes
    ends_wall_s: float
    final: bool = False


class Shelf:
    """Documents by key. A stored SUCCESS stays until it expires or is forgotten."""

    def __init__(self) -> None:
        self._results: dict[str, Kept] = {}
        self._groups: dict[str, Kept] = {}

    def store(self, results: Iterable[StoredResult], now_wall_s: float) -> None:
        """Write documents; the rule of the SUCCESS holds between those of one call as well."""
        for result in results:
            present = _living(self._results, result.key, now_wall_s)
            if present is None or not is_success(present.document):
                ends = _end(result.expires_s, now_wall_s)
                self._results[result.key] = Kept(result.document, ends, result.final)

    def get(self, key: str, now_wall_s: float) -> bytes | None:
        """Read a document."""
        kept = _living(self._results, key, now_wall_s)
        return None if kept is None else kept.document

    def final(self, keys: Sequence[str], now_wall_s: float) -> dict[str, bytes]:
        """The final documents among these keys."""
        found = ((key, _living(self._results, key, now_wall_s)) for key in keys)
        return {key: kept.document for key, kept in found if kept is not None and kept.final}

    def forget(self, keys: Sequence[str]) -> None:
        """Delete documents."""
        for key in keys:
            self._results.pop(key, None)

    def save_group(self, group_id: str, document: bytes, expires_s: float | None, now_wall_s: float) -> None:
        """Write the document of a group."""
        self._groups[group_id] = Kept(document, _end(expires_s, now_wall_s))

    def get_group(self, group_id: str, now_wall_s: float) -> bytes | None:
        """Read the document of a group."""
        kept = _living(self._groups, group_id, now_wall_s)
        return None if kept is None else kept.document

    def forget_group(self, group_id: str) -> None:
        """Delete the document of a group."""
        self._groups.pop(group_id, None)

    def expire(self, limit: int, now_wall_s: float) -> int:
        """Drop up to `limit` expired documents; returns how many."""
        dropped = 0
        for kept_by_key in (self._results, self._groups):
            ended = [key for key, kept in kept_by_key.items() if kept.ends_wall_s <= now_wall_s]
            for key in ended[: max(0, limit - dropped)]:
                del kept_by_key[key]
                dropped += 1
        return dropped


def _living(kept_by_key: dict[str, Kept], key: str, now_wall_s: float) -> Kept | None:
    kept = kept_by_key.get(key)
    return None if kept is None or kept.ends_wall_s <= now_wall_s else kept


def _end(expires_s: float | None, now_wall_s: float) -> float:
    return math.inf if expires_s is None else now_wall_s + expires_s
