"""Who is measured on RabbitMQ."""

from __future__ import annotations

from typing import Final

from ..on_redis import engines as on_redis
from ..on_redis.engines import PREFORK, PROCESSES, Engine

# A deep queue costs RabbitMQ itself more a message than a shallow one does: so it is as deep for everybody.
DEPTH: Final = 60_000

OURS: Final = PREFORK._replace(per_round=DEPTH)
CELERY: Final = on_redis.CELERY._replace(per_round=DEPTH)
CELERY_TUNED: Final = on_redis.CELERY_TUNED._replace(per_round=DEPTH)
UNCONFIRMED: Final = OURS._replace(
    name="prefork, without confirms",
    options='the same with `broker_transport_options = {"confirm_publish": False}`, as Celery publishes',
    environ=(("BENCH_CONFIRMS", "0"),),
)
DRAMATIQ: Final = Engine(
    "dramatiq",
    "dramatiq_rabbitmq_tasks",
    ("-m", "dramatiq", "dramatiq_rabbitmq_tasks", "-p", str(PROCESSES), "-t", "8", "--skip-logging"),
    DEPTH,
    "`dramatiq -p 2 -t 8`: 16 threads",
)
ENGINES: Final = (OURS, CELERY, CELERY_TUNED, DRAMATIQ)
