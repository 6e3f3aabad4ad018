"""The harness on RabbitMQ counts right: tiny sizes, no verdict on speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.on_rabbitmq.engines import CELERY, CELERY_TUNED, DEPTH, DRAMATIQ, ENGINES, OURS, UNCONFIRMED
from bench.on_rabbitmq.main import jobs
from bench.on_rabbitmq.report import rows, section
from bench.on_rabbitmq.server import Server, server
from bench.on_redis.plan import BULK, DRAIN, LATENCY, SEND, TINY, Raw, Size, run


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


def test_prefork_is_measured_on_a_server_that_is_emptied_between_the_rounds(
    one: Server, tmp_path: Path
) -> None:
    ours = [job for job in jobs(TINY) if job.engine.module == OURS.module]
    raw: Raw = {}
    run(ours, one, tmp_path, raw, print, tmp_path / "raw.json")  # type: ignore[arg-type]
    assert {measure: list(found) for measure, found in raw.items()} == {
        DRAIN: [OURS.name],
        SEND: [UNCONFIRMED.name],
        BULK: [OURS.name],
        LATENCY: [OURS.name],
    }
    assert not [
        entry
        for found in raw.values()
        for entries in found.values()
        for entry in entries
        if "failed" in entry
    ]
    assert one.version()


def raw_figures(ours: float) -> Raw:
    def entry(rate: float) -> dict[str, float]:
        return {"per_s": rate, "sent_per_s": rate, "cpu_us": 10.0}

    drains = {engine.name: [entry(100.0)] * 2 for engine in ENGINES}
    return {
        DRAIN: {**drains, OURS.name: [entry(ours)] * 2},
        SEND: {UNCONFIRMED.name: [entry(4_000.0)]},
        BULK: {OURS.name: [entry(5_999.0)]},
        LATENCY: {OURS.name: [{"p50_ms": 1.0, "p99_ms": 3.0}]},
    }


def test_targets_are_met_or_missed_by_the_median_of_the_ratios() -> None:
    found = {row.what: row.met for row in rows(raw_figures(200.0))}
    assert found[f"drain, against {DRAMATIQ.name}"]
    assert not found[f"drain, against {CELERY.name}"]
    assert not found[f"drain, against {CELERY_TUNED.name}"]
    assert found["`.delay()` one at a time, without confirms"]
    assert not found["bulk, with confirms"]
    assert found["idle latency, median"]


def test_the_section_lists_what_falls_short() -> None:
    text = section(raw_figures(500.0), {"RabbitMQ": "3"}, Size(), "### Notes\n\nHere.")
    assert "### Notes\n\nHere." in text
    short = text.partition("### What falls short on RabbitMQ")[2]
    assert "bulk, with confirms: 5,999/s, where ≥ 6,000/s is wanted." in short
    assert "dramatiq" not in short


def test_the_queue_is_as_deep_for_everybody() -> None:
    assert {engine.per_round for engine in ENGINES} == {DEPTH}
    assert f"{DEPTH // 2:,} messages a round for each" in section(raw_figures(500.0), {}, Size(share=0.5), "")
