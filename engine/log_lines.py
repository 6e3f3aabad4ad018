"""Handlers that write each log record with one system call.

Standard library only, because the supervisor logs with it. The handlers hold no lock: one ``write``
needs none, and a lock that some thread held at a fork would stay taken in the child for ever.
"""

from __future__ import annotations

import logging
import os
import select

from .clock import mono_s
from .log_formats import LINE_MAX_BYTES, LineFormatter, let_pass, safe_repr

PIPE_LINE_MAX_BYTES = 4096
"""A longer write to a pipe may be torn apart by other writers, and may block although it polls writable."""

_CUT = b" [cut]\n"
_FULL_PIPE_WAIT_MS = 1000
_ROTATION_CHECK_S = 1.0


def _unformattable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """A record that says what could not be said."""
    said = f"{safe_repr(record.msg)} with {safe_repr(record.args)}"
    text = f"this record cannot be formatted ({safe_repr(error)}): {said}"
    return logging.LogRecord(
        record.name, record.levelno, record.pathname, record.lineno, "%s", (text,), record.exc_info
    )


def _dropped(count: int) -> logging.LogRecord:
    text = f"{count} log lines were dropped: nobody read them in time, or the disk was full"
    return logging.LogRecord("prefork", logging.WARNING, "", 0, text, None, None)


def pieces(data: bytes, limit: int = PIPE_LINE_MAX_BYTES) -> list[bytes]:
    """The data in pieces of at most `limit` bytes, each of whole lines as far as lines are that short."""
    parts, start = [], 0
    while len(data) - start > limit:
        end = data.rfind(b"\n", start, start + limit) + 1 or start + limit
        parts.append(data[start:end])
        start = end
    return [*parts, data[start:]]


class LineHandler(logging.Handler):
    """Writes each record to a descriptor with one ``write``, and never raises.

    A handler that must not block writes a record longer than `PIPE_LINE_MAX_BYTES` in several.

    :param fd: stays the property of the caller.
    :param blocking: wait for a slow reader. The supervisor must not: what cannot be written at once
        is dropped and counted, and the next line that gets through says how many.
    :ivar dropped: lines lost so far. Written by this handler only.
    :ivar process_name: shown as ``%(processName)s``. Written at start and after a fork.
    """

    def __init__(self, fd: int, *, blocking: bool = True, process_name: str | None = None) -> None:
        super().__init__()
        self.dropped = 0
        self.process_name = process_name
        self._blocking = blocking
        self._unreported = 0
        # The last write ended inside a line. Without a lock, and so a guess where threads race: the
        # worst is an empty line, or two records on one.
        self._torn = False
        self._fd = fd

    def createLock(self) -> None:
        """Make none: see the module's docstring."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Filter and write a record, without the lock of the base class."""
        passed: object = self.filter(record)
        if isinstance(passed, logging.LogRecord):
            record = passed
        if passed:
            self.emit(record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        line = self._line(record)
        if self._unreported:
            if self._write(self._line(_dropped(self._unreported))):
                self._unreported = 0
        if not self._write(line):
            self.dropped += 1
            self._unreported += 1

    def _line(self, record: logging.LogRecord) -> bytes:
        if self.process_name is not None:
            record.processName = self.process_name
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - arguments are the program's and may do anything
            let_pass(error)
            text = self._format_instead(_unformattable(record, error))
        return text.encode("utf-8", "backslashreplace") + b"\n"

    def _format_instead(self, told: logging.LogRecord) -> str:
        told.processName = self.process_name or told.processName
        try:
            return self.format(told)
        except Exception as error:  # noqa: BLE001 - not the record is at fault but the format, or the traceback
            let_pass(error)
            told.exc_info = None
            return LineFormatter().format(told)

    def _write(self, data: bytes) -> bool:
        if len(data) > LINE_MAX_BYTES:
            head = data[: LINE_MAX_BYTES - len(_CUT)].decode("utf-8", "ignore").encode()
            data = head + _CUT
        if self._torn:
            data = b"\n" + data
        try:
            if self._blocking:
                return self._write_all(data)
            # A long record would block as a whole: it is written bit by bit.
            return all(self._writable(0) and self._write_all(piece) for piece in pieces(data))
        except (OSError, ValueError):
            # Disk full, reader gone, descriptor closed: logging must not take the process down.
            # The caller counts the line.
            return False

    def _write_all(self, data: bytes) -> bool:
        """Write, once in the normal case; go on after a short write so that lines stay whole."""
        while data:
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                # Somebody made the shared descriptor non-blocking. One line waits, not each one.
                wait_ms = 0 if self._unreported else _FULL_PIPE_WAIT_MS
                if not self._blocking or not self._writable(wait_ms):
                    raise
            else:
                self._torn = data[written - 1 : written] != b"\n"
                data = data[written:]
        return True

    def _writable(self, timeout_ms: int) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(timeout_ms))


class LogFileError(OSError):
    """A log file cannot be opened. Raised at start.

    :param path: the file.
    """

    def __init__(self, path: str, error: OSError) -> None:
        why = f"the log file cannot be opened ({error.strerror}); is its directory there?"
        super().__init__(error.errno, why, path)
        self.path = path


class FileLineHandler(LineHandler):
    """Appends records to a file, and follows it when it is rotated away.

    :param path: created with mode 0600 if it is not there.
    :param template: what `path` was made from, for processes with a file of their own.
    :ivar failed_reopens: times the file was rotated away and could not be made anew.
    :raises LogFileError: the file cannot be opened.
    """

    def __init__(
        self, path: str, *, template: str = "", blocking: bool = True, process_name: str | None = None
    ) -> None:
        super().__init__(_open(path), blocking=blocking, process_name=process_name)
        self.path = path
        self.template = template or path
        self.failed_reopens = 0
        self._checked_mono_s = mono_s()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, to a new file if the old one was moved away."""
        now = mono_s()
        if now - self._checked_mono_s >= _ROTATION_CHECK_S:
            self._checked_mono_s = now
            self._follow_rotation()
        super().emit(record)

    def reopen(self, path: str) -> None:
        """Go on in another file. The old one stays in use if that fails.

        :raises LogFileError: the file cannot be opened.
        """
        new = _open(path)
        # The number stays: another thread may be about to write to it, and must not hit a stranger's file.
        os.dup2(new, self._fd, inheritable=False)
        os.close(new)
        self.path = path
        self._torn = False

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        super().close()

    def _follow_rotation(self) -> None:
        try:
            ours, theirs = os.fstat(self._fd), os.stat(self.path)
            moved = (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino)
        except OSError:
            moved = True  # the name is gone, or the file is closed
        if moved and self._fd >= 0:
            try:
                self.reopen(self.path)
            except LogFileError:
                # Its directory may be back in a second; until then the old file takes the lines.
                self.failed_reopens += 1


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
    except OSError as error:
        raise LogFileError(path, error) from error


def open_handler(
    path: str | None = None,
    *,
    fd: int = 2,
    template: str = "",
    blocking: bool = True,
    process_name: str | None = None,
) -> LineHandler:
    """A handler for a file, or for a descriptor (stderr) where there is none.

    :raises LogFileError: the file cannot be opened.
    """
    if path is None:
        return LineHandler(fd, blocking=blocking, process_name=process_name)
    return FileLineHandler(path, template=template, blocking=blocking, process_name=process_name)
