"""Why settings that Celery has do nothing here; shown once at start and in the reference page."""

from __future__ import annotations

RECONNECTS = "lost connections are always made anew, with pauses that grow"
IN_TURN = "the servers of a list are tried in turn"
KEEPALIVE = "TCP keepalive takes the place of heartbeats, which a busy child could not send"
NO_POOL = "each process has connections of its own; broker_publish_timeout bounds every wait"
RUNS_ON = "a task runs on while its connection is away; its message comes again"
ANY_QUEUE = "queues of every type are served alike"
STORES = "this result store is not part of this version"
CHORDS = "chords are not part of this version"
EVENTS = "events are not part of this version"
BEAT = "the periodic scheduler is not part of this version"
SECURITY = "signed messages are not part of this version"
DAEMONS = "the worker stays in the foreground; a service manager sets this"
PIECEWISE = "write the address as broker_url"
PIECEWISE_RESULTS = "write the address as result_backend"
