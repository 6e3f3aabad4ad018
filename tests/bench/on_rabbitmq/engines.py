"""Who is measured on RabbitMQ."""

from __future__ import annotations

from typing import Final

from ..on_redis.engines import CELERY, CELERY_TUNED, PREFORK, PROCESSES, Engine

OURS: Final = PREFORK._replace(per_round=60_000)
UNCONFIRMED: Final = OURS._replace(
    name="prefork, without confirms",
    options='the same with `broker_transport_options = {"confirm_publish": False}`, as Celery publishes',
    environ=(("BENCH_CONFIRMS", "0"),),
)
DRAMATIQ: Final = Engine(
    "dramatiq",
    "dramatiq_rabbitmq_tasks",
    ("-m", "dramatiq", "dramatiq_rabbitmq_tasks", "-p", str(PROCESSES), "-t", "8", "--skip-logging"),
    30_000,
    "`dramatiq -p 2 -t 8`: 16 threads",
)
ENGINES: Final = (OURS, CELERY, CELERY_TUNED, DRAMATIQ)
