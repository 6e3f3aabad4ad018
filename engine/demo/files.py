"""Which files the demonstration reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROBE_BYTES = 1024
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})


def own_sources() -> Path:
    """The folder of the installed package's sources."""
    return Path(__file__).resolve().parents[1]


def text_files(folder: Path, limit: int) -> list[Path]:
    """The text files below a folder in a stable order, at most `limit`. Links are not followed."""
    found: list[Path] = []
    for path in _files(folder):
        if len(found) == limit:
            break
        if _is_text(path):
            found.append(path)
    return found


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS and not f.startswith("."))
        for name in sorted(names):
            yield Path(parent, name)


def _is_text(path: Path) -> bool:
    """Readable, regular, not empty, and without a NUL at its beginning."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(_PROBE_BYTES)
    except OSError:
        # Unreadable for this user: not a file that a task could count either.
        return False
    return bool(head) and b"\x00" not in head
