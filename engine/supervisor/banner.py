"""What is said once, at the start."""

from __future__ import annotations

import os
from typing import Final

from .context import Context
from .options import WorkerOptions

_STDOUT: Final = 1
_NAMES_SHOWN: Final = 40

# Said at every start because it differs from what users of Celery are used to (design §5).
DELIVERY: Final = "at least once: a message is acknowledged when its task is done (task_acks_late = true)"


def show(context: Context, options: WorkerOptions) -> None:
    """Write the banner to standard output, and what needs attention to the log."""
    for warning in options.warnings:
        context.log.warning("%s", warning)
    try:
        os.write(_STDOUT, text(context.node, os.getpid(), options, context.spec.no_effect).encode())
    except OSError as error:
        context.log.debug("nobody reads the banner: %s", error)


def text(node: str, pid: int, options: WorkerOptions, ignored: list[str]) -> str:
    """The banner."""
    most_fewest = options.autoscale
    children = f"{most_fewest[1]} to {most_fewest[0]}" if most_fewest else str(options.concurrency)
    rows = [
        ("app", options.app),
        ("broker", options.broker),
        ("backend", options.backend or "disabled"),
        ("concurrency", f"{children} (prefork)"),
        ("queues", _names(options.queues)),
        ("tasks", _names(options.tasks, options.task_count)),
        ("delivery", DELIVERY),
    ]
    no_effect = sorted({*options.no_effect, *ignored})
    if no_effect:
        rows.append(("no effect", ", ".join(no_effect)))
    return f"prefork {node} (pid {pid})\n" + "".join(f"  {name + ':':<13}{value}\n" for name, value in rows)


def _names(names: tuple[str, ...], count: int = 0) -> str:
    shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
    more = max(len(names), count) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
