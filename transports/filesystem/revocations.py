"""What is revoked: one file, appended to, and written anew when most of it has ended.

Its first line says how long it was when it was written. A last line that a death or a full disk cut
short is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from ..coordination import REVOKED_MAX
from . import clock
from .fileops import ForeignObject
from .locks import FileLock
from .store import Store

_FILE_BYTES_MAX = 256 << 20
_SLACK_BYTES = 256 << 10
_LOOK_EVERY_S = 60.0


class Revocations:
    """The revocations of one broker directory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.path("agreements", "revoked")
        self._looked_mono_s = 0.0  # written by whoever does the housekeeping

    def add(self, keys: Sequence[str], lifetime_s: float) -> None:
        """Remember that these are revoked."""
        now_wall_s = clock.wall_s()
        lines = "".join(json.dumps([key, now_wall_s, lifetime_s]) + "\n" for key in keys)
        if lines:
            with self._lock():
                self._append(lines.encode("ascii"))

    def living(self) -> list[str]:
        """What is revoked, oldest first."""
        with self._lock():
            return [key for key, _line in self._read()[0]]

    def mark(self) -> str:
        """Which file it is and how long: to revoke makes it longer, or another one."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return ""
        return f"{found.st_ino} {found.st_mtime_ns} {found.st_size}"

    def tidy(self) -> None:
        """Write the file anew when something has ended; looked at once a minute."""
        now_mono_s = clock.mono_s()
        if now_mono_s - self._looked_mono_s < _LOOK_EVERY_S or not os.path.lexists(self._path):
            return
        self._looked_mono_s = now_mono_s
        with self._lock():
            living, lines = self._read()
            if len(living) < lines:
                self._write(living)

    def _lock(self) -> FileLock:
        return self._store.lock(self._store.path("locks", "revoked"))

    def _append(self, data: bytes) -> None:
        ops = self._store.ops
        try:
            fd = ops.open_regular(self._path, os.O_RDWR | os.O_CREAT)
        except ForeignObject as error:
            self._store.quarantine(error)
            fd = ops.open_regular(self._path, os.O_RDWR | os.O_CREAT)
        try:
            size = ops.fstat(fd).st_size
            first = ops.pread(fd, 32, 0).partition(b"\n")[0]
            if not size:
                data = b"0\n" + data
            elif ops.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data
            ops.write_all(fd, data, size)
            if self._store.fsync:
                ops.fdatasync(fd)
        finally:
            ops.close(fd)
        written_bytes = int(first) if first.isdigit() else 0
        if size + len(data) > 2 * written_bytes + _SLACK_BYTES:
            self._write(self._read()[0])

    def _read(self) -> tuple[list[tuple[str, bytes]], int]:
        """What lives, with its line, oldest first; and how many lines there are."""
        try:
            data = self._store.ops.read_file(self._path, _FILE_BYTES_MAX)
        except FileNotFoundError:
            return [], 0
        except ForeignObject as error:
            self._store.quarantine(error)
            return [], 0
        lines = data.split(b"\n")[1:-1]
        now_wall_s = clock.wall_s()
        found: dict[str, bytes] = {}
        for line in lines:
            key = _living_key(line, now_wall_s)
            if key is not None:
                found.pop(key, None)
                found[key] = line
        return list(found.items())[-REVOKED_MAX:], len(lines)

    def _write(self, living: Sequence[tuple[str, bytes]]) -> None:
        if not living:
            self._store.ops.unlink_if_there(self._path)
            return
        body = b"".join(line + b"\n" for _key, line in living)
        temporary = f"{self._path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        self._store.ops.write_new(temporary, b"%d\n" % len(body) + body, sync=self._store.fsync)
        self._store.ops.rename(temporary, self._path)


def _living_key(line: bytes, now_wall_s: float) -> str | None:
    """What a line revokes; None when that has ended, or the line is none.

    Something that begins later than its own length from now has ended, too: the clock was set back.
    """
    try:
        key, wall_s, lifetime_s = json.loads(line)
        return str(key) if abs(now_wall_s - wall_s) < lifetime_s else None
    except (ValueError, TypeError):
        return None
