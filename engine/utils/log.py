"""Loggers for tasks (parity §17)."""

from __future__ import annotations

import logging

from ..log_formats import TaskFields

TASK_LOGGER = "celery.task"

_RESERVED = frozenset({"celery", TASK_LOGGER})


def get_logger(name: str) -> logging.Logger:
    """The logger of this name, below the worker's."""
    return logging.getLogger(name)


def get_task_logger(name: str) -> logging.Logger:
    """A logger whose records carry ``task_id`` and ``task_name`` and are written in the task format.

    :param name: usually ``__name__``.
    :raises ValueError: the name is that of a logger of the worker.
    """
    if name in _RESERVED:
        raise ValueError(f"{name!r} is a logger of the worker; give the task logger another name: __name__")
    logger = logging.getLogger(name)
    if not any(isinstance(existing, TaskFields) for existing in logger.filters):
        logger.addFilter(TaskFields())
    if not name.startswith(f"{TASK_LOGGER}."):
        logger.parent = logging.getLogger(TASK_LOGGER)
    return logger
