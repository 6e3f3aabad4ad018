"""Queues and routing."""

from __future__ import annotations

from typing import Any

from ..kinds import BOOLEAN, DELIVERY_MODE, PRIORITY, STRUCTURE, TEXT, WORD, choice, optional
from ..reasons import AMQP, CONTROL
from ..setting import section, setting


@section
class RoutingSettings:
    """Queues and routing."""

    task_queues: Any = setting(
        STRUCTURE,
        None,
        "Queues the worker consumes and clients may use (list of Queue or map); null = one default queue.",
        old="CELERY_QUEUES",
    )
    task_routes: Any = setting(
        STRUCTURE,
        None,
        "Router(s): map of name/glob/regex to options, callables, dotted paths.",
        old="CELERY_ROUTES",
    )
    task_default_queue: str = setting(
        WORD,
        "celery",
        "Default queue name.",
        old="CELERY_DEFAULT_QUEUE",
    )
    task_default_queue_type: str = setting(
        choice("classic", "quorum"),
        "classic",
        "Classic or quorum for the default queue.",
        old="CELERY_DEFAULT_QUEUE_TYPE",
        no_effect=AMQP,
    )
    task_default_exchange: str | None = setting(
        optional(TEXT),
        None,
        "Exchange of the default queue (falls back to queue name).",
        old="CELERY_DEFAULT_EXCHANGE",
    )
    task_default_exchange_type: str = setting(
        TEXT,
        "direct",
        "Exchange type of the default queue.",
        old="CELERY_DEFAULT_EXCHANGE_TYPE",
        no_effect=AMQP,
    )
    task_default_routing_key: str | None = setting(
        optional(TEXT),
        None,
        "Routing key of the default queue (falls back to queue name).",
        old="CELERY_DEFAULT_ROUTING_KEY",
    )
    task_default_delivery_mode: int = setting(
        DELIVERY_MODE,
        2,
        "2/persistent or 1/transient.",
        old="CELERY_DEFAULT_DELIVERY_MODE",
        no_effect=AMQP,
    )
    task_create_missing_queues: bool = setting(
        BOOLEAN,
        True,
        "Declare unknown queue names on the fly.",
        old="CELERY_CREATE_MISSING_QUEUES",
    )
    task_create_missing_queue_type: str = setting(
        choice("classic", "quorum"),
        "classic",
        "Queue type of such queues.",
        old="CELERY_CREATE_MISSING_QUEUE_TYPE",
        no_effect=AMQP,
    )
    task_create_missing_queue_exchange_type: str | None = setting(
        optional(TEXT),
        None,
        "Exchange type of such queues; null = default exchange type.",
        old="CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE",
        no_effect=AMQP,
    )
    task_queue_max_priority: int | None = setting(
        optional(PRIORITY),
        None,
        "X-max-priority added to all queues (RabbitMQ).",
        old="CELERY_QUEUE_MAX_PRIORITY",
        no_effect=AMQP,
    )
    worker_direct: bool = setting(
        BOOLEAN,
        False,
        "Give each worker its own queue on exchange C.dq2.",
        old="CELERY_WORKER_DIRECT",
        no_effect=CONTROL,
    )
