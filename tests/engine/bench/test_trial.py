"""One trial runs a real worker, leaves nothing behind, and says why it failed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from prefork.engine.bench import trial as trial_module
from prefork.engine.bench.figures import Setting
from prefork.engine.bench.tasks import RECORD, probe
from prefork.engine.bench.trial import Load, Trial, TrialFailed
from prefork.engine.control_socket import ControlError
from prefork.transports.registry import open_transport
from support.redis_server import running_redis


def ready(broker: str) -> int:
    transport = open_transport(broker)
    try:
        return sum(transport.depth(queue).ready for queue in transport.queues())
    finally:
        transport.close()


@pytest.fixture
def broker(tmp_path: Path) -> str:
    return f"filesystem://{tmp_path / 'queue'}"


def test_a_trial_measures_a_real_worker_and_leaves_no_message(broker: str, tmp_path: Path) -> None:
    load = Load(messages=60, probes=3, task_ms=0.0, seconds=5.0, timeout_s=60.0)
    figures = Trial({"broker_url": broker}, Setting(1, 4), load, tmp_path).run()
    assert (figures.concurrency, figures.read_ahead) == (1, 4)
    assert figures.per_s > 0
    assert 0 < figures.p50_ms <= figures.p99_ms
    assert figures.cpu_us is None or figures.cpu_us > 0
    assert ready(broker) == 0
    assert not list(tmp_path.glob("prefork-bench-*"))


def test_a_trial_that_takes_too_long_fails_and_leaves_no_message(broker: str, tmp_path: Path) -> None:
    load = Load(messages=40, probes=1, task_ms=500.0, seconds=20.0, timeout_s=0.5)
    with pytest.raises(TrialFailed, match=r"concurrency 1, read-ahead 1: \d+ of \d+ tasks started within"):
        Trial({"broker_url": broker}, Setting(1, 1), load, tmp_path).run()
    assert ready(broker) == 0


def test_a_trial_whose_worker_ends_fails_at_once(broker: str, tmp_path: Path) -> None:
    trial = Trial({"broker_url": broker}, Setting(1, 1), Load(5, 1, 0.0, 5.0, 60.0), tmp_path)
    begin_s = time.monotonic()
    with trial._worker() as worker, pytest.raises(TrialFailed, match="the worker ended after 0 of 5 tasks"):
        os.kill(worker.pid, signal.SIGTERM)
        trial._await(worker, 5)
    assert time.monotonic() - begin_s < 50.0
    trial._clean_up()


class Starting:
    """A worker whose children begin one after the other, one with each look."""

    def __init__(self) -> None:
        self.looks = 0

    def wait(self, timeout_s: float) -> int:
        raise TimeoutError

    def stats(self) -> dict[str, Any]:
        self.looks += 1
        if self.looks == 2:
            raise ControlError("the socket", "does not answer")
        phases = ["ready"] * self.looks + ["starting"] * (4 - self.looks)
        return {"children": [{"phase": phase} for phase in phases]}


def test_a_trial_begins_to_count_when_its_last_child_is_ready(broker: str, tmp_path: Path) -> None:
    trial = Trial({"broker_url": broker}, Setting(4, 0), Load(5, 1, 0.0, 5.0, 60.0), tmp_path)
    worker: Any = Starting()
    before_ns = time.monotonic_ns()
    assert before_ns <= trial._await_children(worker, 5) <= time.monotonic_ns()
    assert worker.looks == 4
    trial._clean_up()


def test_a_trial_whose_tasks_have_all_begun_with_its_children_says_nothing_of_cpu_time(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial({"broker_url": broker}, Setting(4, 0), Load(5, 1, 0.0, 5.0, 60.0), tmp_path)
    for number in range(5):
        probe(str(trial._log), number, 0.0)
    burnt_s = iter([1.0, 2.0])  # the last ones still ran
    monkeypatch.setattr(trial_module, "_cpu_s", lambda pid: next(burnt_s))
    with trial._worker() as worker:
        assert trial._drain(worker, 5) is None
    trial._clean_up()


def test_the_task_records_its_number_and_its_start(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    begin_ns = time.monotonic_ns()
    probe(path, 7, 5.0)
    number, start_ns = RECORD.unpack(Path(path).read_bytes())
    assert number == 7
    assert begin_ns <= start_ns <= time.monotonic_ns() - 5_000_000


def test_a_trial_on_redis_leaves_no_trace_of_its_queue(tmp_path: Path) -> None:
    with running_redis() as server:
        load = Load(messages=60, probes=3, task_ms=0.0, seconds=5.0, timeout_s=60.0)
        figures = Trial({"broker_url": server.url}, Setting(1, 0), load, tmp_path).run()
        assert figures.per_s > 0
        with Redis(port=server.port) as client:
            left = {key: client.dump(key) for key in client.scan_iter()}
    assert [key for key, value in left.items() if b"prefork-bench" in key + (value or b"")] == []
