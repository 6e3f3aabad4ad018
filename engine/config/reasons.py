"""Why settings that Celery has do nothing here; shown once at start and in the reference page."""

from __future__ import annotations

NETWORK_BROKERS = "brokers reached over a network are not part of this version"
AMQP = "AMQP is not part of this version"
STORES = "this result store is not part of this version"
CHORDS = "chords are not part of this version"
EVENTS = "events are not part of this version"
CONTROL = "remote control is not part of this version"
BEAT = "the periodic scheduler is not part of this version"
SECURITY = "signed messages are not part of this version"
DAEMONS = "the worker stays in the foreground; a service manager sets this"
PIECEWISE = "write the address as broker_url"
PIECEWISE_RESULTS = "write the address as result_backend"
