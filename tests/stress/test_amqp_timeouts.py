"""RabbitMQ's consumer_timeout: what is held too long is taken away, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.amqp_stress import AmqpSite
from support.rabbitmq_server import RabbitMQ, shared
from support.waiting import eventually

DEFAULT_MS = 1_800_000


@contextmanager
def consumer_timeout(server: RabbitMQ, timeout_s: float) -> Iterator[None]:
    """Connections made within the block have this timeout."""

    def put(timeout_ms: int, tick_ms: int) -> None:
        server.control(
            "eval",
            f"application:set_env(rabbit, consumer_timeout, {timeout_ms}), "
            f"application:set_env(rabbit, channel_tick_interval, {tick_ms}).",
        )

    put(int(timeout_s * 1000), 200)
    try:
        yield
    finally:
        put(DEFAULT_MS, 60_000)


@pytest.mark.parametrize("timeout_s", [1.0, pytest.param(5.0, marks=pytest.mark.soak)])
def test_what_is_held_beyond_the_timeout_runs_once_more_and_then_is_a_dead_letter(
    tmp_path: Path, timeout_s: float, request: pytest.FixtureRequest
) -> None:
    server = shared()
    with consumer_timeout(server, timeout_s):
        options = {"held_ttl": 1.0}  # what has begun with nobody knowing comes back sooner
        site = AmqpSite(tmp_path, server, task_default_queue_type="quorum", broker_transport_options=options)
        request.addfinalizer(site.close)
        worker = site.worker(concurrency=2).start()
        long = site.send("timed", timeout_s * 1.3 + 0.6)
        site.started(long)
        short = [site.send("work", 0.05) for _ in range(10)]
        site.finished(10.0, short)
        letter = eventually(site.dead, deadline_s=timeout_s * 8, every_s=0.2)[0]
        runs = site.starts(long)
        assert len(runs) == 2
        assert runs[0].end_ns is not None
        assert runs[0].end_ns <= runs[1].start_ns, "the second began while the first still ran"
        assert letter.reason == "consumer-timeout"
        assert long.encode() in letter.document
        assert "consumer_timeout" in worker.log
        assert all(len(site.starts(task_id)) == 1 for task_id in short)
        assert site.state(long) in {"SUCCESS", "FAILURE"}
        site.consumes()
        assert worker.stats()["deaths"] == {}
        assert worker.stop() == 0
