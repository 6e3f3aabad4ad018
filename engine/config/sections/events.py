"""Events and remote control."""

from __future__ import annotations

from ..kinds import BOOLEAN, SECONDS, TEXT, WORD
from ..reasons import CONTROL, EVENTS
from ..setting import section, setting


@section
class EventsSettings:
    """Events and remote control."""

    event_exchange: str = setting(
        TEXT,
        "celeryev",
        "Event exchange name.",
        old="CELERY_EVENT_EXCHANGE",
        no_effect=EVENTS,
    )
    event_queue_prefix: str = setting(
        TEXT,
        "celeryev",
        "Prefix of receiver queues.",
        old="CELERY_EVENT_QUEUE_PREFIX",
        no_effect=EVENTS,
    )
    event_queue_ttl: float = setting(
        SECONDS,
        5.0,
        "Event message TTL seconds.",
        unit="s",
        old="CELERY_EVENT_QUEUE_TTL",
        no_effect=EVENTS,
    )
    event_queue_expires: float = setting(
        SECONDS,
        60.0,
        "Receiver queue expiry seconds.",
        unit="s",
        old="CELERY_EVENT_QUEUE_EXPIRES",
        no_effect=EVENTS,
    )
    event_queue_exclusive: bool = setting(
        BOOLEAN,
        True,
        "Receiver queue exclusive.",
        old="CELERY_EVENT_QUEUE_EXCLUSIVE",
        no_effect=EVENTS,
    )
    event_queue_durable: bool = setting(
        BOOLEAN,
        False,
        "Receiver queue durable.",
        old="CELERY_EVENT_QUEUE_DURABLE",
        no_effect=EVENTS,
    )
    event_serializer: str = setting(
        WORD,
        "json",
        "Event serializer.",
        old="CELERY_EVENT_SERIALIZER",
        no_effect=EVENTS,
    )
    control_exchange: str = setting(
        TEXT,
        "celery",
        "Namespace of the control exchanges.",
        old="CONTROL_EXCHANGE",
        no_effect=CONTROL,
    )
    control_queue_ttl: float = setting(
        SECONDS,
        300.0,
        "Control message TTL seconds.",
        unit="s",
        old="CONTROL_QUEUE_TTL",
        no_effect=CONTROL,
    )
    control_queue_expires: float = setting(
        SECONDS,
        10.0,
        "Control queue expiry seconds.",
        unit="s",
        old="CONTROL_QUEUE_EXPIRES",
        no_effect=CONTROL,
    )
    control_queue_exclusive: bool = setting(
        BOOLEAN,
        True,
        "Control queues exclusive.",
        old="CONTROL_QUEUE_EXCLUSIVE",
        no_effect=CONTROL,
    )
    control_queue_durable: bool = setting(
        BOOLEAN,
        False,
        "Control queues durable.",
        old="CONTROL_QUEUE_DURABLE",
        no_effect=CONTROL,
    )
