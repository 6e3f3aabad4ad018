"""Events and remote control."""

from __future__ import annotations

from ..kinds import BOOLEAN, SECONDS, TEXT, WORD
from ..reasons import EVENTS
from ..setting import section, setting


@section
class EventsSettings:
    """Events and remote control."""

    event_exchange: str = setting(
        TEXT,
        "celeryev",
        "Name of the exchange for events.",
        old="CELERY_EVENT_EXCHANGE",
        no_effect=EVENTS,
    )
    event_queue_prefix: str = setting(
        TEXT,
        "celeryev",
        "How the names of event queues begin.",
        old="CELERY_EVENT_QUEUE_PREFIX",
        no_effect=EVENTS,
    )
    event_queue_ttl: float = setting(
        SECONDS,
        5.0,
        "Lifetime of events in a queue.",
        unit="s",
        old="CELERY_EVENT_QUEUE_TTL",
        no_effect=EVENTS,
    )
    event_queue_expires: float = setting(
        SECONDS,
        60.0,
        "Lifetime of an event queue that nobody reads.",
        unit="s",
        old="CELERY_EVENT_QUEUE_EXPIRES",
        no_effect=EVENTS,
    )
    event_queue_exclusive: bool = setting(
        BOOLEAN,
        True,
        "Event queues are exclusive.",
        old="CELERY_EVENT_QUEUE_EXCLUSIVE",
        no_effect=EVENTS,
    )
    event_queue_durable: bool = setting(
        BOOLEAN,
        False,
        "Event queues are durable.",
        old="CELERY_EVENT_QUEUE_DURABLE",
        no_effect=EVENTS,
    )
    event_serializer: str = setting(
        WORD,
        "json",
        "Serializer of events.",
        old="CELERY_EVENT_SERIALIZER",
        no_effect=EVENTS,
    )
    control_exchange: str = setting(
        TEXT,
        "celery",
        "Namespace of the control exchanges.",
        old="CONTROL_EXCHANGE",
    )
    control_queue_ttl: float = setting(
        SECONDS,
        300.0,
        "Lifetime of control messages in a queue that nobody reads.",
        unit="s",
        old="CONTROL_QUEUE_TTL",
    )
    control_queue_expires: float = setting(
        SECONDS,
        10.0,
        "Lifetime of a control queue that nobody reads.",
        unit="s",
        old="CONTROL_QUEUE_EXPIRES",
    )
    control_queue_exclusive: bool = setting(
        BOOLEAN,
        True,
        "Control queues are exclusive.",
        old="CONTROL_QUEUE_EXCLUSIVE",
    )
    control_queue_durable: bool = setting(
        BOOLEAN,
        False,
        "Control queues are durable.",
        old="CONTROL_QUEUE_DURABLE",
    )
