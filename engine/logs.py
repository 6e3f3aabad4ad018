"""Logging of a worker's processes: levels, formats, files, and where print() goes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator

from .config import Config
from .log_file import expand, has_child_field
from .log_formats import make_formatter
from .log_lines import FileLineHandler, LineHandler, open_handler
from .redirected import RedirectedStream
from .signals import after_setup_logger, after_setup_task_logger, setup_logging

TASK_LOGGER = "celery.task"
REDIRECTED_LOGGER = "celery.redirected"

OWN_LOGGERS = ("prefork", "celery")
"""Everything this package logs is below one of these."""

_MakeHandler = Callable[[str, "str | None"], LineHandler]


def level_number(level: str | int) -> int:
    """The number of a log level.

    :raises ValueError: there is no such level.
    """
    if isinstance(level, int):
        return level
    number = logging.getLevelName(level.strip().upper())
    if not isinstance(number, int):
        raise ValueError(f"{level!r} is no log level; write DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return number


def setup_worker_logging(
    config: Config,
    *,
    loglevel: str | int = "WARNING",
    logfile: str | None = None,
    node: str = "",
    process_name: str = "MainProcess",
) -> bool:
    """Set up logging in the first process of a worker that imports the application.

    A root logger that the program has given handlers is left alone, unless
    ``worker_hijack_root_logger`` is set. Listeners of the ``setup_logging`` signal replace all of it.

    :param logfile: a template (`log_file.expand`), or None for stderr.
    :param node: ``name@host``.
    :returns: False when a listener took over.
    :raises LogFileError: the log file cannot be opened.
    :raises BadLogFileTemplate: its template has a field that does not exist.
    """
    level = level_number(loglevel)
    template = logfile if logfile is not None else config.worker_logfile
    colour = _wants_colour(config, template)
    asked = {"loglevel": level, "logfile": template, "colorize": colour}
    if setup_logging.has_listeners():
        setup_logging.send(None, format=config.worker_log_format, **asked)
        return False
    path = None if template is None else expand(template, node)
    root = logging.getLogger()
    task_logger = logging.getLogger(TASK_LOGGER)
    if config.worker_hijack_root_logger:
        for logger in (root, task_logger, *map(logging.getLogger, OWN_LOGGERS)):
            _drop_handlers(logger)

    def handler(fmt: str, datefmt: str | None) -> LineHandler:
        made = open_handler(path, template=template or "", process_name=process_name)
        made.setFormatter(make_formatter(fmt, datefmt, json_lines=config.worker_json_logs, colour=colour))
        return made

    if not _is_configured(root):
        root.addHandler(handler(config.worker_log_format, config.worker_log_datefmt))
        root.setLevel(level)
        _give_task_handler(task_logger, handler, config)
    else:
        for name in OWN_LOGGERS:
            logging.getLogger(name).setLevel(level)
            if path is not None:
                logging.getLogger(name).addHandler(
                    handler(config.worker_log_format, config.worker_log_datefmt)
                )
    after_setup_logger.send(None, logger=root, format=config.worker_log_format, **asked)
    after_setup_task_logger.send(None, logger=task_logger, format=config.worker_task_log_format, **asked)
    if config.worker_redirect_stdouts:
        redirect_stdouts(config.worker_redirect_stdouts_level)
    return True


def _give_task_handler(task_logger: logging.Logger, make: _MakeHandler, config: Config) -> None:
    if _is_configured(task_logger):
        return
    task_logger.addHandler(make(config.worker_task_log_format, config.worker_task_log_datefmt))
    # Its records have a handler of their own; the root's would print them twice.
    task_logger.propagate = False


def enter_process(name: str, *, node: str = "", index: int = 0) -> None:
    """Give the log lines of this process its name, and its own log file where the template says so.

    Call it in every process after the fork.

    :param name: shown as ``%(processName)s``.
    :param index: number of the child, from 1; 0 for any other process.
    :raises LogFileError: the log file cannot be opened.
    """
    for handler in _our_handlers():
        handler.process_name = name
        if isinstance(handler, FileLineHandler) and has_child_field(handler.template):
            path = expand(handler.template, node, index)
            if path != handler.path:
                handler.reopen(path)


def dropped_lines() -> int:
    """How many log lines of this process were lost, because a disk was full or nobody read."""
    return sum(handler.dropped for handler in _our_handlers())


def redirect_stdouts(level: str | int = "WARNING") -> None:
    """Send what is printed to the log, one record a line; twice is the same as once."""
    number = level_number(level)
    logger = logging.getLogger(REDIRECTED_LOGGER)
    if not isinstance(sys.stdout, RedirectedStream):
        sys.stdout = RedirectedStream(logger, number, sys.stdout)
    if not isinstance(sys.stderr, RedirectedStream):
        sys.stderr = RedirectedStream(logger, number, sys.stderr)


def restore_stdouts() -> None:
    """Undo `redirect_stdouts`; what waits for the end of its line is logged first."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, RedirectedStream):
            stream.flush()
            setattr(sys, name, stream.original)


def _our_handlers() -> Iterator[LineHandler]:
    for name in (None, TASK_LOGGER, *OWN_LOGGERS):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, LineHandler):
                yield handler


def _is_configured(logger: logging.Logger) -> bool:
    return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)


def _drop_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, LineHandler):
            handler.close()


def _wants_colour(config: Config, template: str | None) -> bool:
    if config.worker_json_logs or template is not None:
        return False
    if config.worker_log_color is not None:
        return config.worker_log_color
    return os.isatty(2)
