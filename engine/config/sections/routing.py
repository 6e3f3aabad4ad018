"""Queues and routing."""

from __future__ import annotations

from typing import Any

from ..kinds import (
    BOOLEAN,
    DELIVERY_MODE,
    MAP,
    PRIORITY,
    STRUCTURE,
    TEXT,
    WORD,
    choice,
    integer,
    optional,
)
from ..setting import section, setting


@section
class RoutingSettings:
    """Queues and routing."""

    task_queues: Any = setting(
        STRUCTURE,
        None,
        "The queues: a list of names or Queue objects, or a map; none means the default queue alone.",
        old="CELERY_QUEUES",
    )
    task_routes: Any = setting(
        STRUCTURE,
        None,
        "Where tasks go: a map from name, pattern or regular expression to options, functions, or a "
        "list of these.",
        old="CELERY_ROUTES",
    )
    task_default_queue: str = setting(
        WORD,
        "celery",
        "Name of the default queue.",
        old="CELERY_DEFAULT_QUEUE",
    )
    task_default_queue_type: str = setting(
        choice("classic", "quorum"),
        "classic",
        "Type of the default queue: classic or quorum.",
        old="CELERY_DEFAULT_QUEUE_TYPE",
    )
    task_default_exchange: str | None = setting(
        optional(TEXT),
        None,
        "Exchange of the default queue; none means the name of the queue.",
        old="CELERY_DEFAULT_EXCHANGE",
    )
    task_default_exchange_type: str = setting(
        TEXT,
        "direct",
        "Exchange type of the default queue.",
        old="CELERY_DEFAULT_EXCHANGE_TYPE",
    )
    task_default_routing_key: str | None = setting(
        optional(TEXT),
        None,
        "Routing key of the default queue; none means the name of the queue.",
        old="CELERY_DEFAULT_ROUTING_KEY",
    )
    task_default_delivery_mode: int = setting(
        DELIVERY_MODE,
        2,
        "Whether messages survive a restart of the broker: 2 (persistent) or 1 (transient).",
        old="CELERY_DEFAULT_DELIVERY_MODE",
    )
    task_create_missing_queues: bool = setting(
        BOOLEAN,
        True,
        "Accept names of queues that task_queues does not have.",
        old="CELERY_CREATE_MISSING_QUEUES",
    )
    task_create_missing_queue_type: str = setting(
        choice("classic", "quorum"),
        "classic",
        "Type of such queues: classic or quorum.",
        old="CELERY_CREATE_MISSING_QUEUE_TYPE",
    )
    task_create_missing_queue_exchange_type: str | None = setting(
        optional(TEXT),
        None,
        "Exchange type of such queues; none means task_default_exchange_type.",
        old="CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE",
    )
    task_queue_max_priority: int | None = setting(
        optional(PRIORITY),
        None,
        "Highest priority that queues are declared with.",
        old="CELERY_QUEUE_MAX_PRIORITY",
    )
    worker_direct: bool = setting(
        BOOLEAN,
        False,
        "Give each worker a queue of its own as well, its name followed by .dq2.",
        old="CELERY_WORKER_DIRECT",
    )
    worker_queue_order: str = setting(
        choice("round_robin", "strict"),
        "round_robin",
        "Which queue comes first within a priority: each in turn (round_robin), or always the one that -Q, "
        "or task_queues, names first, whatever the priority (strict).",
        ours=True,
    )
    worker_queue_weights: dict[str, int] = setting(
        MAP,
        {},
        "How many messages of each queue of 1 to 100 are taken for those of others; also -Q high=5,low=1.",
        ours=True,
    )
    worker_priority_fairness: int | None = setting(
        optional(integer(2)),
        None,
        "Of so many messages, one is taken from another priority than the best, each in its turn, so that "
        "none waits for ever; none keeps to priorities strictly.",
        ours=True,
    )
