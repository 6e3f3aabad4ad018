"""How tasks are sent and executed."""

from __future__ import annotations

from typing import Any

from ..kinds import (
    BOOLEAN,
    DURATION,
    MAP,
    POSITIVE,
    PRIORITY,
    RATE,
    SECONDS,
    STRUCTURE,
    WORD,
    integer,
    number,
    optional,
)
from ..reasons import CHORDS, EVENTS
from ..setting import section, setting


@section
class TasksSettings:
    """How tasks are sent and executed."""

    task_annotations: Any = setting(
        STRUCTURE,
        None,
        'Attributes of tasks to override: a map from task name (or "*") to attributes, or a list of '
        "maps and functions.",
        old="CELERY_ANNOTATIONS",
    )
    task_compression: str | None = setting(
        optional(WORD),
        None,
        "Compression of messages, unless the task or the call names another.",
        old="CELERY_MESSAGE_COMPRESSION",
    )
    task_protocol: int = setting(
        integer(1, 2),
        2,
        "Version of the message protocol when sending, 1 or 2.",
        old="CELERY_TASK_PROTOCOL",
    )
    task_serializer: str = setting(
        WORD,
        "json",
        "Serializer of messages, unless the task or the call names another.",
        old="CELERY_TASK_SERIALIZER",
    )
    task_publish_retry: bool = setting(
        BOOLEAN,
        True,
        "Try again when publishing fails for want of a connection.",
        old="CELERY_TASK_PUBLISH_RETRY",
    )
    task_publish_retry_policy: dict[str, Any] = setting(
        MAP,
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "How publishing is tried again: max_retries, interval_start, interval_step, interval_max, "
        "retry_errors.",
        old="CELERY_TASK_PUBLISH_RETRY_POLICY",
    )
    task_always_eager: bool = setting(
        BOOLEAN,
        False,
        "Run tasks at once and in this process instead of sending them.",
        old="CELERY_ALWAYS_EAGER",
    )
    task_eager_propagates: bool = setting(
        BOOLEAN,
        False,
        "Eager tasks raise their exceptions instead of keeping them.",
        old="CELERY_EAGER_PROPAGATES_EXCEPTIONS",
    )
    task_store_eager_result: bool = setting(
        BOOLEAN,
        False,
        "Eager tasks store their results.",
        old="CELERY_STORE_EAGER_RESULT",
    )
    task_ignore_result: bool = setting(
        BOOLEAN,
        False,
        "Store no results, unless the task or the call says otherwise.",
        old="CELERY_IGNORE_RESULT",
    )
    task_store_errors_even_if_ignored: bool = setting(
        BOOLEAN,
        False,
        "Store failures of tasks whose results are ignored.",
        old="CELERY_STORE_ERRORS_EVEN_IF_IGNORED",
    )
    task_track_started: bool = setting(
        BOOLEAN,
        False,
        "Store the state STARTED when a task begins.",
        old="CELERY_TRACK_STARTED",
    )
    task_time_limit: float | None = setting(
        optional(DURATION),
        None,
        "Hard time limit: the process group of the task is killed.",
        unit="s",
        old="CELERYD_TASK_TIME_LIMIT",
    )
    task_soft_time_limit: float | None = setting(
        optional(DURATION),
        None,
        "Soft time limit: SoftTimeLimitExceeded is raised in the task.",
        unit="s",
        old="CELERYD_TASK_SOFT_TIME_LIMIT",
    )
    task_acks_late: bool = setting(
        BOOLEAN,
        True,
        "Acknowledge a message after it was executed rather than before, so that nothing is lost when a "
        "process dies.",
        celery=False,
        old="CELERY_ACKS_LATE",
    )
    task_acks_on_failure: bool | None = setting(
        optional(BOOLEAN),
        None,
        "With late acknowledgement, acknowledge tasks that failed; none follows "
        "task_acks_on_failure_or_timeout.",
        old="CELERY_ACKS_ON_FAILURE",
    )
    task_acks_on_timeout: bool | None = setting(
        optional(BOOLEAN),
        None,
        "With late acknowledgement, acknowledge tasks that exceeded a limit; none follows "
        "task_acks_on_failure_or_timeout.",
        old="CELERY_ACKS_ON_TIMEOUT",
    )
    task_acks_on_failure_or_timeout: bool = setting(
        BOOLEAN,
        True,
        "Both of the former at once.",
        old="CELERY_ACKS_ON_FAILURE_OR_TIMEOUT",
    )
    task_reject_on_worker_lost: bool | None = setting(
        optional(BOOLEAN),
        None,
        "With late acknowledgement, what happens when the child process dies: requeue (none or true, up "
        "to task_max_crashes), or store FAILURE/WorkerLostError (false); in Celery, none means the "
        "latter.",
        old="CELERY_REJECT_ON_WORKER_LOST",
    )
    task_retry_on_worker_lost: bool = setting(
        BOOLEAN,
        False,
        "Treat the death of the process as a retry of the task, up to its max_retries.",
        old="CELERY_RETRY_ON_WORKER_LOST",
        no_effect="a task whose process died runs again anyway, up to task_max_crashes",
    )
    task_remote_tracebacks: bool = setting(
        BOOLEAN,
        False,
        "Attach the traceback of the worker to exceptions raised again by the client.",
        old="CELERY_REMOTE_TRACEBACKS",
        no_effect="the traceback of the worker is always kept as text",
    )
    task_repr_maxlevels: int = setting(
        POSITIVE,
        3,
        "How deep readable arguments go (task_send_argsrepr).",
        old="CELERY_REPR_MAXLEVELS",
        no_effect="readable arguments are bounded by their length",
    )
    task_send_sent_event: bool = setting(
        BOOLEAN,
        False,
        "Clients send an event for each task they send.",
        old="CELERY_SEND_TASK_SENT_EVENT",
        no_effect=EVENTS,
    )
    task_inherit_parent_priority: bool = setting(
        BOOLEAN,
        False,
        "A task sent from a task has the priority of its parent.",
        old="CELERY_INHERIT_PARENT_PRIORITY",
    )
    task_default_priority: int | None = setting(
        optional(PRIORITY),
        None,
        "Priority where none is given.",
        old="CELERY_DEFAULT_PRIORITY",
    )
    task_default_urgency: int | None = setting(
        optional(integer(0, 9)),
        None,
        "Urgency where neither priority nor urgency is given: like a priority, with 9 first on every broker.",
        ours=True,
    )
    task_default_rate_limit: str | float | None = setting(
        optional(RATE),
        None,
        "Rate limit of tasks without one of their own; 0 pauses them.",
        old="CELERY_DEFAULT_RATE_LIMIT",
    )
    task_default_rate_limit_burst: float = setting(
        number(1),
        1.0,
        "How many tokens a rate limit saves up while nobody asks for them, unless the task says otherwise.",
        ours=True,
    )
    task_allow_error_cb_on_chord_header: bool = setting(
        BOOLEAN,
        False,
        "Attach the error callback of a chord to each task of its header, too.",
        old="CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER",
        no_effect=CHORDS,
    )
    task_max_crashes: int = setting(
        POSITIVE,
        3,
        "A message whose process died this often goes to the dead letters, with the causes.",
        ours=True,
    )
    task_unknown_grace: float = setting(
        SECONDS,
        300.0,
        "How long a message of an unknown task is put off, for the sake of rolling deploys, before it "
        "goes to the dead letters.",
        unit="s",
        ours=True,
    )
    task_unknown_retry_delay: float = setting(
        DURATION,
        5.0,
        "How long a message of an unknown task is put off at a time.",
        unit="s",
        ours=True,
    )
    task_unique_ttl: float = setting(
        DURATION,
        3600.0,
        "How long a unique task that came to no end keeps others from being sent (`unique`).",
        unit="s",
        ours=True,
    )
    task_payload_max_bytes: int | None = setting(
        optional(POSITIVE),
        64 * 1024 * 1024,
        "A larger message is refused where it is sent, with an error that names the task; no broker should "
        "be asked to hold it. None leaves it to the broker, up to 128 MiB.",
        unit="bytes",
        ours=True,
    )
    task_send_argsrepr: bool = setting(
        BOOLEAN,
        False,
        "Send readable arguments along with each message, as Celery does, for event viewers; they can "
        "hold secrets.",
        ours=True,
    )
