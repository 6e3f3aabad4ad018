"""Records of the log, and what makes them hard to write."""

from __future__ import annotations

import logging
import sys
from typing import Any


def record(message: Any = "hello", *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    """A record of ``app.module``.

    :param extra: fields of the record beside those that every record has.
    """
    made = logging.LogRecord("app.module", level, "/app/module.py", 7, message, args, None)
    made.__dict__.update(extra)
    return made


def failed(text: str) -> logging.LogRecord:
    """The record of an exception with this text."""
    try:
        raise ValueError(text)
    except ValueError:
        made = record("failed", level=logging.ERROR)
        made.exc_info = sys.exc_info()
        return made


class Angry:
    """What has no representation."""

    def __repr__(self) -> str:
        raise RuntimeError("no")
