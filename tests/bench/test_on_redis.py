"""The harness on Redis counts right: tiny sizes, no verdict on speed."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.on_redis.engines import APPS, BARE, CELERY, HUEY, PREFORK, WITH_LIMITS, Engine
from bench.on_redis.log import Executions, Log
from bench.on_redis.plan import (
    BACKLOG,
    BULK,
    DELAYED,
    DRAIN,
    DRAIN_RESULTS,
    LATENCY,
    MEMORY,
    ROUND_TRIP,
    SEND,
    TINY,
    Job,
    Raw,
    Size,
    jobs,
    run,
)
from bench.on_redis.processes import cpu_s, pss_mb
from bench.on_redis.report import ratio, rows, section
from bench.on_redis.rounds import Round, drain, latency_ms, round_trip_ms, weight_mb
from bench.on_redis.server import Server, server
from bench.sections import part, with_part


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.mark.parametrize(
    ("engine", "results"),
    [(PREFORK, False), (PREFORK, True), (WITH_LIMITS, True), (HUEY, False), (CELERY, True)],
    ids=lambda value: value.name if isinstance(value, Engine) else f"results {value}",
)
def test_a_round_is_measured_when_every_message_ran_once(
    redis: Server, engine: Engine, results: bool, tmp_path: Path
) -> None:
    drained = drain(Round(redis, engine, tmp_path, results=results), 200)
    assert drained.per_s > 0
    assert drained.sent_per_s > 0
    assert drained.cpu_us >= 0


def test_an_idle_worker_is_probed_and_weighed(redis: Server, tmp_path: Path) -> None:
    for name in ("latency", "trip", "weight"):
        (tmp_path / name).mkdir()
    p50_ms, p99_ms = latency_ms(Round(redis, PREFORK, tmp_path / "latency"), 5, 0.002)
    assert 0 < p50_ms <= p99_ms
    p50_ms, p99_ms = round_trip_ms(Round(redis, PREFORK, tmp_path / "trip", results=True), 5, 0.002)
    assert 0 < p50_ms <= p99_ms
    assert weight_mb(Round(redis, PREFORK, tmp_path / "weight"), 20) > 5


def test_a_worker_that_cannot_start_is_told_with_its_output(redis: Server, tmp_path: Path) -> None:
    broken = Engine("broken", PREFORK.module, ("-c", "raise SystemExit('no worker today')"), 10, "")
    with pytest.raises(RuntimeError, match="(?s)broken: 0 of 1 tasks ran.*no worker today"):
        drain(Round(redis, broken, tmp_path), 10)


def test_every_measure_is_taken_in_turn_and_a_failure_costs_only_its_round(
    redis: Server, tmp_path: Path
) -> None:
    taken: list[str] = []

    def well(one: Round) -> dict[str, float]:
        taken.append(one.engine.name)
        return {"per_s": 1.0}

    def badly(one: Round) -> dict[str, float]:
        raise RuntimeError("not today")

    raw: Raw = {DRAIN: {HUEY.name: [{"per_s": 7.0}]}}
    keep = tmp_path / "raw.json"
    wanted = [Job(DRAIN, PREFORK, well, 2), Job(DRAIN, HUEY, well, 2), Job(DRAIN, CELERY, badly, 1)]
    said: list[str] = []
    run(wanted, redis, tmp_path, raw, said.append, keep)
    assert list(dict.fromkeys(taken)) == ["prefork", "Huey"]
    assert raw[DRAIN][CELERY.name] == [{"failed": 1.0}]
    assert [entry["per_s"] for entry in raw[DRAIN][HUEY.name]] == [7.0, 1.0]
    assert 0.0 <= raw[DRAIN][HUEY.name][1]["others"] <= 1.0
    assert any("not today" in line for line in said)
    assert keep.exists()


def test_the_plan_has_every_measure_of_the_table() -> None:
    measures = {job.measure for job in jobs(TINY, lambda: 0)}
    expected = {DRAIN, DRAIN_RESULTS, SEND, BULK, LATENCY, ROUND_TRIP, MEMORY, BACKLOG, DELAYED}
    assert measures == expected
    assert {job.times for job in jobs(Size(), lambda: 0) if job.measure == DRAIN} == {5}


def test_messages_that_are_lost_or_run_twice_spoil_the_round(tmp_path: Path) -> None:
    def written(*numbers: int) -> Executions:
        path = tmp_path / "log"
        path.write_bytes(b"".join(struct.pack("<qqq", n, 1_000 * at, 9) for at, n in enumerate(numbers)))
        return Log(path).read()

    written(2, 0, 1).check(3)
    with pytest.raises(RuntimeError, match="1 of 3 messages were lost"):
        written(2, 0).check(3)
    with pytest.raises(RuntimeError, match="1 executions too many"):
        written(2, 0, 1, 1).check(3)
    assert written(0, 1, 2).rate() == pytest.approx(1e6)
    assert written(0, 1).by_process() == [[0, 1_000]]


def test_waiting_for_the_log_ends_with_its_writer(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    assert log.count() == 0
    with pytest.raises(RuntimeError, match="0 of 1 tasks ran"):
        log.wait(1, 60.0, lambda: False)


def test_the_log_holds_the_records_of_several_processes(tmp_path: Path) -> None:
    code = "import run_log; log = run_log.from_environment(); [log.ran(n) for n in range(50)]"
    environ = {**os.environ, "BENCH_LOG": str(tmp_path / "log"), "BENCH_CLOCK": "cpu"}
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=APPS, env=environ) for _ in range(2)]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    found = Log(tmp_path / "log").read()
    assert sorted(found.numbers) == sorted([*range(50), *range(50)])
    assert [len(figures) for figures in found.by_process()] == [50, 50]


def test_processes_have_used_time_and_memory() -> None:
    assert cpu_s(os.getpid()) > 0
    assert pss_mb(os.getpid()) > 1


def raw_figures(ours: float) -> Raw:
    entry = {"per_s": 100.0, "sent_per_s": 100.0, "cpu_us": 10.0}
    mine = {"per_s": ours, "sent_per_s": ours, "cpu_us": 10.0}
    drains = {"prefork": [mine] * 2, CELERY.name: [entry] * 2, HUEY.name: [entry, {"failed": 1.0}]}
    quick = {"p50_ms": 0.5, "p99_ms": 1.0}
    return {
        DRAIN: drains,
        DRAIN_RESULTS: {**drains, WITH_LIMITS.name: [{**mine, "per_s": ours / 2}]},
        SEND: {"prefork": [mine] * 2, BARE.name: [entry] * 2},
        BULK: {"prefork": [{"sent_per_s": 50_000.0}]},
        LATENCY: {"prefork": [quick]},
        ROUND_TRIP: {"prefork": [quick]},
        MEMORY: {"prefork": [{"weight_mb": 50.0}]},
        BACKLOG: {"1": [{"drain_us": 10.0, "weight_mb": 50.0}], "2": [{"drain_us": 13.0, "weight_mb": 50.0}]},
        DELAYED: {"0": [{"drain_us": 10.0, "weight_mb": 50.0}]},
    }


def test_targets_are_met_or_missed_by_the_median_of_the_ratios() -> None:
    met = {row.what: row.met for row in rows(raw_figures(4500.0))}
    missed = {row.what: row.met for row in rows(raw_figures(4499.0))}
    what = "drain, results off, against Celery"
    assert met[what] and not missed[what]
    assert not met["with limits and STARTED, of that"]
    assert not met["CPU a task with longer backlogs"]
    assert met["memory with longer backlogs"]
    assert ratio(raw_figures(1.0), "per_s", (DRAIN, "prefork"), (DRAIN, "nobody")) != 0


def test_the_section_has_every_measure_and_lists_what_falls_short() -> None:
    raw = raw_figures(100.0)
    text = section(raw, {"CPU": "one"}, Size(), "### Where the time goes\n\nHere.")
    assert "### Where the time goes\n\nHere." in text
    short = text.partition("### What falls short on Redis")[2]
    assert "drain, results off, against Celery: 1.0×, where ≥ 45× is wanted." in short
    assert "drain, Huey: 1 of 2 rounds failed." in short
    assert "idle latency" not in short


def test_a_part_of_a_page_is_replaced_and_the_rest_stays() -> None:
    page = "# Title\n\n<!-- a -->\nold\n<!-- end of a -->\n\ntail\n"
    assert part(page, "a") == "old"
    assert part(page, "b") == ""
    assert with_part(page, "a", "new\n") == "# Title\n\n<!-- a -->\nnew\n<!-- end of a -->\n\ntail\n"
    assert with_part(page, "b", "more").endswith("tail\n\n<!-- b -->\nmore\n<!-- end of b -->\n")
    with pytest.raises(ValueError, match="end of a"):
        with_part("<!-- a -->\nopen", "a", "new")
