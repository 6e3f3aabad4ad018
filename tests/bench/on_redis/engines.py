"""Who is measured on Redis: each with its worker command for two processes, and its options stated."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

APPS: Final = Path(__file__).parent / "apps"
PROCESSES: Final = 2
_BIN: Final = Path(sys.executable).parent
# What Celery's own guide advises against overhead: no gossip, mingle, heartbeat.
_CELERY: Final = ("-m", "celery", "-A", "celery_tasks", "worker", "-P", "prefork", "-c", str(PROCESSES))
_CELERY_QUIET: Final = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Engine(NamedTuple):
    """One engine with one set of options.

    :ivar name: as the tables show it.
    :ivar module: its tasks, in ``apps``.
    :ivar command: its worker; the interpreter comes first, unless the first word is a path.
    :ivar per_round: messages a round when it drains, so that a round takes a few seconds.
    :ivar options: as the method says them.
    :ivar environ: what its tasks are told.
    """

    name: str
    module: str
    command: tuple[str, ...]
    per_round: int
    options: str
    environ: tuple[tuple[str, str], ...] = ()

    def argv(self) -> list[str]:
        """The whole command."""
        if os.path.isabs(self.command[0]):
            return list(self.command)
        return [sys.executable, *self.command]


PREFORK: Final = Engine(
    "prefork",
    "prefork_tasks",
    ("-m", "prefork.engine", "worker", "-A", "prefork_tasks", "-c", str(PROCESSES), "-l", "WARNING"),
    100_000,
    "`prefork worker -c 2`, all defaults",
)
CELERY: Final = Engine(
    "Celery, defaults",
    "celery_tasks",
    (*_CELERY, "-l", "WARNING"),
    3_000,
    "`celery worker -P prefork -c 2`, `worker_prefetch_multiplier` 4",
)
CELERY_TUNED: Final = Engine(
    "Celery, tuned",
    "celery_tasks",
    (*_CELERY, "-l", "WARNING", *_CELERY_QUIET),
    3_000,
    "the same with `worker_prefetch_multiplier` 128 and " + " ".join(f"`{o}`" for o in _CELERY_QUIET),
    (("BENCH_PREFETCH", "128"),),
)
DRAMATIQ: Final = Engine(
    "dramatiq",
    "dramatiq_tasks",
    ("-m", "dramatiq", "dramatiq_tasks", "-p", str(PROCESSES), "-t", "8", "--skip-logging"),
    10_000,
    "`dramatiq -p 2 -t 8`",
)
HUEY: Final = Engine(
    "Huey",
    "huey_tasks",
    (
        *("-m", "huey.bin.huey_consumer", "huey_tasks.huey", "-w", str(PROCESSES), "-k", "process"),
        *("-q", "-n", "-C", "-d", "0.001", "-m", "0.01"),
    ),
    10_000,
    "`huey_consumer -w 2 -k process -q -n -C -d 0.001 -m 0.01`: no log of executions, no scheduler, "
    "no health check, shortest waits",
)
RQ: Final = Engine(
    "RQ, SimpleWorker",
    "rq_tasks",
    (
        *(str(_BIN / "rq"), "worker-pool", "-n", str(PROCESSES), "-q", "-P", "."),
        *("-w", "rq.worker.SimpleWorker", "-u", "BENCH_REDIS", "bench"),
    ),
    3_000,
    "`rq worker-pool -n 2 -q -w rq.worker.SimpleWorker` (its default worker forks for each task)",
)
TASKIQ: Final = Engine(
    "taskiq",
    "taskiq_tasks",
    (
        *(str(_BIN / "taskiq"), "worker", "taskiq_tasks:broker", "--workers", str(PROCESSES)),
        *("--log-level", "WARNING"),
    ),
    10_000,
    "`taskiq worker --workers 2` on its `ListQueueBroker`, an `async` task",
)
ENGINES: Final = (PREFORK, CELERY, CELERY_TUNED, DRAMATIQ, HUEY, RQ, TASKIQ)
PEERS: Final = (DRAMATIQ, HUEY, RQ, TASKIQ)
WITH_RESULTS: Final = (PREFORK, CELERY, CELERY_TUNED, HUEY, TASKIQ)
WITH_LIMITS: Final = Engine(
    "prefork, limits and STARTED",
    PREFORK.module,
    PREFORK.command,
    PREFORK.per_round,
    "the same with `task_time_limit`, `task_soft_time_limit` and `task_track_started`",
    (("BENCH_LIMITS", "1"),),
)
BARE: Final = Engine("redis-py `LPUSH`", "bare_lpush", (), 0, "no engine: one `LPUSH` of 800 bytes")
