"""The effective configuration as the template reports it: plain data, no settings code here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..scoreboard import SLOTS
from .deadlines import Limits

# Every child may have a successor beside it.
CONCURRENCY_MAX = SLOTS // 2 - 2


class OptionsError(ValueError):
    """The configuration cannot be run; the text says which value and what would do."""


@dataclass(frozen=True)
class WorkerOptions:
    """What the supervisor needs to know of the configuration.

    :param autoscale: most and fewest children, or None for a fixed number.
    :param lease_s: how long the worker's lease lasts without being renewed.
    :param boot_timeout_s: a child that is not ready by then is killed.
    :param tasks: names of the first tasks; `task_count` says how many there are.
    :param max_boot_failures: so many in a row stop the worker.
    :param no_effect: settings and options that were given and mean nothing here.
    :param warnings: other things to be said once at the start.
    """

    concurrency: int = 1
    autoscale: tuple[int, int] | None = None
    max_memory_kib: int | None = None
    hard_memory_kib: int | None = None
    soft_shutdown_s: float = 25.0
    lease_s: float = 15.0
    boot_timeout_s: float = 60.0
    max_boot_failures: int = 5
    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_count: int = 0
    broker: str = ""
    backend: str = ""
    app: str = ""
    pidfile: str | None = None
    no_effect: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    log: Mapping[str, Any] | None = None

    @property
    def limits(self) -> Limits:
        """The memory limits."""
        return Limits(self.max_memory_kib, self.hard_memory_kib)

    @property
    def first_target(self) -> int:
        """How many children to start with."""
        return self.autoscale[1] if self.autoscale else self.concurrency


def worker_options(reported: Mapping[str, Any]) -> WorkerOptions:
    """Read a report. What it lacks has its default; what is not needed here is left alone.

    :raises OptionsError: the number of children is out of range.
    """
    names = {field.name for field in fields(WorkerOptions)}
    values = {name: value for name, value in reported.items() if name in names and value is not None}
    for name in ("queues", "tasks", "no_effect", "warnings"):
        values[name] = tuple(str(item) for item in values.get(name, ()))
    if "autoscale" in values:
        most, fewest = values["autoscale"]
        values["autoscale"] = (int(most), int(fewest))
    options = WorkerOptions(**values)
    most = max(options.concurrency, options.autoscale[0] if options.autoscale else 0)
    if not 1 <= most <= CONCURRENCY_MAX:
        raise OptionsError(f"{most} children: a worker can have 1 to {CONCURRENCY_MAX} (worker_concurrency)")
    return options
