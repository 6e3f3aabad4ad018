"""The worker and its processes."""

from __future__ import annotations

from typing import Any

from ..kinds import (
    BOOLEAN,
    CONCURRENCY,
    COUNT,
    DURATION,
    OBJECT,
    POSITIVE,
    SECONDS,
    WORD,
    choice,
    integer,
    number,
    optional,
)
from ..reasons import ANY_QUEUE, EVENTS, RUNS_ON
from ..setting import section, setting


@section
class WorkerSettings:
    """The worker and its processes."""

    worker_concurrency: int | str | None = setting(
        optional(CONCURRENCY),
        None,
        "Number of child processes; none or auto is the number of processors that affinity and cgroup allow.",
        old="CELERYD_CONCURRENCY",
    )
    worker_pool: str = setting(
        choice("prefork", "solo"),
        "prefork",
        "How tasks run: prefork (child processes), or solo (one process for everything, for debuggers); "
        "the other pools of Celery are refused.",
        old="CELERYD_POOL",
        no_effect="the pool is chosen on the command line: -P solo",
    )
    worker_pool_start_method: str = setting(
        choice("fork", "spawn"),
        "fork",
        "How children are made: fork or spawn.",
        old="CELERYD_POOL_START_METHOD",
        no_effect="superseded by worker_start_method",
    )
    worker_pool_putlocks: bool = setting(
        BOOLEAN,
        True,
        "Guard writes to children by a semaphore.",
        old="CELERYD_POOL_PUTLOCKS",
        no_effect="children take their messages from the broker themselves",
    )
    worker_pool_restarts: bool = setting(
        BOOLEAN,
        False,
        "Allow the control command pool_restart.",
        old="CELERYD_POOL_RESTARTS",
        no_effect="SIGHUP imports the application anew and replaces the children",
    )
    worker_prefetch_multiplier: int = setting(
        COUNT,
        0,
        "Upper bound on the messages a child holds; 0 leaves read-ahead bounded by predicted time alone "
        "(worker_read_ahead_ms).",
        celery=4,
        old="CELERYD_PREFETCH_MULTIPLIER",
    )
    worker_disable_prefetch: bool = setting(
        BOOLEAN,
        False,
        "Let a child hold only the message it runs.",
        old="CELERYD_DISABLE_PREFETCH",
    )
    worker_eta_task_limit: int | None = setting(
        optional(POSITIVE),
        None,
        "How many delayed tasks a worker holds in memory.",
        old="CELERYD_ETA_TASK_LIMIT",
        no_effect="delayed tasks wait in the broker, not in the worker",
    )
    worker_enable_prefetch_count_reduction: bool = setting(
        BOOLEAN,
        True,
        "Reduce the prefetch count after connecting again.",
        old="CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION",
        no_effect="read-ahead is measured in time and adapts by itself",
    )
    worker_lost_wait: float = setting(
        SECONDS,
        10.0,
        "How long a result is waited for after a child died.",
        unit="s",
        old="CELERYD_WORKER_LOST_WAIT",
        no_effect="the death of a child is known at once",
    )
    worker_max_tasks_per_child: int | None = setting(
        optional(POSITIVE),
        None,
        "Recycle a child after that many tasks.",
        old="CELERYD_MAX_TASKS_PER_CHILD",
    )
    worker_max_memory_per_child: int | None = setting(
        optional(POSITIVE),
        None,
        "Recycle a child, after its task, above that much private memory.",
        unit="KiB",
        old="CELERYD_MAX_MEMORY_PER_CHILD",
    )
    worker_proc_alive_timeout: float = setting(
        SECONDS,
        4.0,
        "How long a new child may take to report in.",
        unit="s",
        old="CELERYD_PROC_ALIVE_TIMEOUT",
        no_effect="superseded by worker_boot_timeout",
    )
    worker_autoscaler: Any = setting(
        OBJECT,
        "celery.worker.autoscale:Autoscaler",
        "Class of the autoscaler.",
        old="CELERYD_AUTOSCALER",
        no_effect="parts of the worker cannot be replaced by class",
    )
    worker_timer: Any = setting(
        OBJECT,
        None,
        "Class of the timer.",
        old="CELERYD_TIMER",
        no_effect="parts of the worker cannot be replaced by class",
    )
    worker_timer_precision: float = setting(
        SECONDS,
        1.0,
        "Longest sleep of the timer.",
        unit="s",
        old="CELERYD_TIMER_PRECISION",
        no_effect="there is no such timer",
    )
    worker_consumer: Any = setting(
        OBJECT,
        "celery.worker.consumer:Consumer",
        "Class of the consumer.",
        old="CELERYD_CONSUMER",
        no_effect="parts of the worker cannot be replaced by class",
    )
    worker_agent: Any = setting(
        OBJECT,
        None,
        "Class of the agent.",
        old="CELERYD_AGENT",
        no_effect="parts of the worker cannot be replaced by class",
    )
    worker_state_db: str | None = setting(
        optional(WORD),
        None,
        "File that keeps revoked ids over restarts.",
        old="CELERYD_STATE_DB",
    )
    worker_revokes_max: int = setting(
        integer(1, 50_000),
        50_000,
        "How many revocations a worker remembers; the oldest are forgotten first. At most 50,000.",
        ours=True,
    )
    worker_revoke_expires: float = setting(
        DURATION,
        604_800.0,
        "How long a revocation is remembered, by workers and by the broker.",
        unit="s",
        ours=True,
    )
    worker_enable_remote_control: bool = setting(
        BOOLEAN,
        True,
        "Answer control commands.",
        old="CELERY_ENABLE_REMOTE_CONTROL",
    )
    worker_disable_rate_limits: bool = setting(
        BOOLEAN,
        False,
        "Ignore all rate limits (rate_limit, global_rate_limit); max_concurrency is kept.",
        old="CELERY_DISABLE_RATE_LIMITS",
    )
    worker_cancel_long_running_tasks_on_connection_loss: bool = setting(
        BOOLEAN,
        False,
        "Kill tasks with late acknowledgement when the connection is lost.",
        old="CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS",
        no_effect=RUNS_ON,
    )
    worker_deduplicate_successful_tasks: bool = setting(
        BOOLEAN,
        False,
        "Pass over a redelivered task that has succeeded already.",
        old="CELERYD_DEDUPLICATE_SUCCESSFUL_TASKS",
        no_effect="a result that is SUCCESS is never overwritten; tasks must be safe to repeat",
    )
    worker_soft_shutdown_timeout: float = setting(
        SECONDS,
        25.0,
        "How long running tasks may take to finish after SIGTERM before they are interrupted and given "
        "back; 0 does not wait.",
        unit="s",
        celery=0.0,
        old="CELERYD_SOFT_SHUTDOWN_TIMEOUT",
    )
    worker_enable_soft_shutdown_on_idle: bool = setting(
        BOOLEAN,
        False,
        "Wait for worker_soft_shutdown_timeout even when no task runs.",
        old="CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE",
        no_effect="a worker without running tasks has nothing to wait for",
    )
    worker_detect_quorum_queues: bool = setting(
        BOOLEAN,
        True,
        "Look whether queues are quorum queues.",
        old="CELERYD_DETECT_QUORUM_QUEUES",
        no_effect=ANY_QUEUE,
    )
    worker_send_task_events: bool = setting(
        BOOLEAN,
        False,
        "Send events about tasks (-E).",
        old="CELERY_SEND_EVENTS",
        no_effect=EVENTS,
    )
    worker_hard_memory_limit: int | None = setting(
        optional(POSITIVE),
        None,
        "Kill a child, and its task with it, above that much private memory.",
        unit="KiB",
        ours=True,
    )
    worker_start_method: str = setting(
        choice("auto", "template", "fresh"),
        "auto",
        "How children start: forked from a template that has imported the application, or each importing "
        "it afresh; auto uses the template where that is safe.",
        ours=True,
    )
    worker_lease: float = setting(
        DURATION,
        15.0,
        "Without a sign of life for this long, other workers take over the worker's messages.",
        unit="s",
        ours=True,
    )
    worker_lease_renew_interval: float = setting(
        DURATION,
        3.0,
        "How often a worker renews its lease.",
        unit="s",
        ours=True,
    )
    worker_boot_timeout: float = setting(
        DURATION,
        60.0,
        "A child that has not reported in by then is killed and counted as a failed boot.",
        unit="s",
        ours=True,
    )
    worker_max_boot_failures: int = setting(
        POSITIVE,
        5,
        "So many children in a row that fail to boot stop the worker with exit code 3.",
        ours=True,
    )
    worker_async_concurrency: int = setting(
        integer(1, 10_000),
        1,
        "How many `async def` tasks a child runs at once (--async-concurrency).",
        ours=True,
    )
    worker_read_ahead_ms: float = setting(
        number(0),
        10.0,
        "Predicted work a child may hold beyond the message it runs; 0 holds none.",
        unit="ms",
        ours=True,
    )
    worker_read_ahead_max: int = setting(
        POSITIVE,
        256,
        "Upper bound on the messages a child reserves at once, however short they are.",
        ours=True,
    )
