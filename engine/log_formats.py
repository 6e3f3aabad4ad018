"""Log records as text or JSON, each a line (or indented lines) that no message can break out of.

Standard library only, because the supervisor logs with it. A record begins at the start of a line
and everything that belongs to it but does not fit is indented, so that no text in a message can
pass for another record; all other control characters are escaped.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime, timezone
from typing import Any

from .task_context import current

WORKER_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
CONTINUATION = "    "
UNKNOWN_TASK = "???"

LINE_MAX_BYTES = 64 * 1024
"""What a record is cut to."""

_INT_MAX = 2**63

_INTERRUPTIONS = frozenset({"SoftTimeLimitExceeded", "Terminated"})
"""Raised by signal handlers wherever the task happens to be, so perhaps here: meant for the task."""

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


_JSON_FIELDS = frozenset("time level logger message process pid task_id task_name exception stack".split())


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
            line = json.dumps({**added, **fields}, default=safe_repr, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            # Odd keys, NaN or a cycle in what the program added: keep those as text.
            fields = {_text(key): _plain(value) for key, value in {**added, **fields}.items()}
            line = json.dumps(fields)
        return line if len(line) < LINE_MAX_BYTES else _cut_json(fields)


def _cut_json(fields: dict[str, Any]) -> str:
    """The fields in a line that is short enough: the middle of long texts is left out."""
    limit = LINE_MAX_BYTES
    kept = {key: _plain(value) for key, value in fields.items() if key in _JSON_FIELDS}
    while len(line := json.dumps({**kept, "cut": True})) >= LINE_MAX_BYTES:
        limit //= 2
        kept = {key: _shorten(value, limit) for key, value in kept.items()}
    return line


def _shorten(value: str | int | None, limit: int) -> str | int | None:
    if not isinstance(value, str) or len(value) <= limit:
        return value
    half = limit // 2
    return f"{value[:half]} [cut] {value[len(value) - half :]}"


def _text(key: object) -> str:
    return key if isinstance(key, str) else safe_repr(key)


def _plain(value: object) -> str | int | None:
    if value is None or type(value) is str or (type(value) is int and abs(value) < _INT_MAX):
        return value
    return safe_repr(value)


def safe_repr(value: object) -> str:
    """The repr of anything; of what has none, that it has none."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a repr of the user's own may raise anything
        let_pass(error)
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


def let_pass(error: Exception) -> None:
    """Raise what is meant for the task and not for the log."""
    if type(error).__name__ in _INTERRUPTIONS:
        raise error


def make_formatter(
    fmt: str, datefmt: str | None = None, *, json_lines: bool = False, colour: bool = False
) -> logging.Formatter:
    """The formatter that the settings ask for."""
    return JsonFormatter() if json_lines else LineFormatter(fmt, datefmt, colour=colour)
