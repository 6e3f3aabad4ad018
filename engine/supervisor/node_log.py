"""The supervisor's own log: one line, one write, never waited for."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from ..log_formats import WORKER_FORMAT, JsonFormatter, LineFormatter
from ..log_lines import open_handler

NAME: Final = "prefork.supervisor"
_STDERR: Final = 2


def make_logger(level: str, path: str | None) -> logging.Logger:
    """The supervisor's logger, writing to standard error or to a file.

    :param path: log file, its templates expanded.
    :raises LogFileError: the file cannot be opened.
    """
    handler = open_handler(path, blocking=False, process_name="MainProcess")
    handler.setFormatter(LineFormatter(colour=path is None and os.isatty(_STDERR)))
    logger = logging.Logger(NAME, logging.getLevelName(level.upper()))
    logger.addHandler(handler)
    return logger


def reformat(logger: logging.Logger, settings: Mapping[str, Any]) -> None:
    """Take over the format that the configuration asks for, once it is known."""
    for handler in logger.handlers:
        colour = isinstance(handler.formatter, LineFormatter) and handler.formatter.colour
        if settings.get("json"):
            handler.setFormatter(JsonFormatter())
            continue
        try:
            fmt, datefmt = settings.get("format") or WORKER_FORMAT, settings.get("datefmt")
            handler.setFormatter(LineFormatter(fmt, datefmt, colour=colour))
        except ValueError as error:
            logger.warning("worker_log_format is no format of the logging module: %s", error)
