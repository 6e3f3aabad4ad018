"""Log records as lines: formatters, and handlers that write each record with one system call.

Standard library only, because the supervisor logs with it. The handlers hold no lock: one ``write``
needs none, and a lock that some thread held at a fork would stay taken in the child for ever.

A record begins at the start of a line and everything that belongs to it but does not fit is
indented, so that no text in a message can pass for another record; all other control characters
are escaped.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import select
from datetime import datetime, timezone
from typing import Any

from .clock import mono_s
from .task_context import current

WORKER_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
CONTINUATION = "    "
UNKNOWN_TASK = "???"

PIPE_LINE_MAX_BYTES = 4096
"""A longer write to a pipe may be torn apart by other writers, and may block although it polls writable."""

LINE_MAX_BYTES = 64 * 1024
"""What a record is cut to."""

_CUT = b" [cut]\n"
_FULL_PIPE_WAIT_MS = 1000
_ROTATION_CHECK_S = 1.0

# Control characters but tab and newline, line separators that terminals or collectors honour, and
# marks that turn the direction of text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_COLOURS = {logging.DEBUG: "34", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "35"}

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "task_id",
    "task_name",
}


def escape_line(text: str) -> str:
    """Make control characters visible; tabs stay, newlines start an indented continuation."""
    if text.isprintable():
        return text
    escaped = _UNSAFE.sub(_visible, text)
    return escaped.replace("\n", f"\n{CONTINUATION}") if "\n" in escaped else escaped


def _visible(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def add_task_fields(record: logging.LogRecord) -> None:
    """Give the record ``task_id`` and ``task_name`` of the running task, unless it has them."""
    fields = vars(record)
    if "task_id" not in fields or "task_name" not in fields:
        task_id, task_name = current() or (UNKNOWN_TASK, UNKNOWN_TASK)
        fields.setdefault("task_id", task_id)
        fields.setdefault("task_name", task_name)


class TaskFields(logging.Filter):
    """Lets everything pass and adds the task fields, for loggers whose handlers are the program's own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        add_task_fields(record)
        return True


class LineFormatter(logging.Formatter):
    """Records as text.

    :param fmt: Celery's ``worker_log_format`` or ``worker_task_log_format``.
    :param colour: colour lines by level; for terminals.
    """

    def __init__(self, fmt: str = WORKER_FORMAT, datefmt: str | None = None, *, colour: bool = False) -> None:
        super().__init__(fmt, datefmt)
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One record, continuation lines indented."""
        add_task_fields(record)
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        parts = [self.formatMessage(record)]
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        line = escape_line("\n".join(parts))
        code = _COLOURS.get(record.levelno) if self.colour else None
        return line if code is None else f"\x1b[{code}m{line}\x1b[0m"


class JsonFormatter(logging.Formatter):
    """Records as JSON objects, one a line; fields that the program added are kept."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line of ASCII."""
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.processName,
            "pid": record.process,
        }
        add_task_fields(record)
        task_id, task_name = vars(record)["task_id"], vars(record)["task_name"]
        if task_id != UNKNOWN_TASK:
            fields.update(task_id=task_id, task_name=task_name)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        added = {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}
        try:
            return json.dumps({**added, **fields}, default=_repr, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            # Odd keys, NaN or a cycle in what the program added: keep those as text.
            texts = {str(key): _repr(value) for key, value in added.items()}
            return json.dumps({**texts, **fields}, default=_repr)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a repr of the user's own may raise anything
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


def _unformattable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """A record that says what could not be said."""
    text = f"this record cannot be formatted ({_repr(error)}): {_repr(record.msg)}"
    told = logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, "%s", (text,), None)
    told.processName = record.processName
    return told


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
        if self.process_name is not None:
            record.processName = self.process_name
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - arguments are the program's and may do anything
            line = self.format(_unformattable(record, error))
        if self._unreported:
            note = f"{self._unreported} log lines were dropped: nobody read them in time\n"
            if self._write(note.encode()):
                self._unreported = 0
        if not self._write(line.encode("utf-8", "backslashreplace") + b"\n"):
            self.dropped += 1
            self._unreported += 1

    def _write(self, data: bytes) -> bool:
        if len(data) > LINE_MAX_BYTES:
            head = data[: LINE_MAX_BYTES - len(_CUT)].decode("utf-8", "ignore").encode()
            data = head + _CUT
        try:
            if self._blocking:
                return self._write_all(data)
            # The end of a long record is what matters in a traceback: not cut, but written bit by bit.
            return all(self._writable(0) and self._write_all(piece) for piece in pieces(data))
        except OSError:
            # Disk full, reader gone, descriptor closed: logging must not take the process down.
            # The caller counts the line.
            return False

    def _write_all(self, data: bytes) -> bool:
        """Write, once in the normal case; go on after a short write so that lines stay whole."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError as error:
                # Somebody made the shared descriptor non-blocking.
                if (
                    error.errno != errno.EAGAIN
                    or not self._blocking
                    or not self._writable(_FULL_PIPE_WAIT_MS)
                ):
                    raise
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
        old, self._fd = self._fd, _open(path)
        self.path = path
        os.close(old)

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


def make_formatter(
    fmt: str, datefmt: str | None = None, *, json_lines: bool = False, colour: bool = False
) -> logging.Formatter:
    """The formatter that the settings ask for."""
    return JsonFormatter() if json_lines else LineFormatter(fmt, datefmt, colour=colour)


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
