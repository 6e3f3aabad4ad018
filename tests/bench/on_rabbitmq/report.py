"""The section of the page about RabbitMQ."""

from __future__ import annotations

from typing import Final

from ..on_redis.plan import BULK, DRAIN, LATENCY, SEND, Raw, Size
from ..on_redis.report import Row, ratio, summary, table
from .engines import CELERY, CELERY_TUNED, DEPTH, DRAMATIQ, ENGINES, OURS, UNCONFIRMED

_METHOD: Final = """\
* As on Redis (same harness, same tasks, same log that every message must be in exactly once), with one
  private RabbitMQ on the loopback (`+S 2:2`), its queues deleted before each round; classic durable
  queues and persistent messages, as each engine declares and sends them by default; {rounds} rounds.
* prefork waits for the broker's confirmation of every message unless the row says otherwise; Celery's
  default, and dramatiq's, is to send and hope.
* **Drain** leaves acknowledgements on: Celery acknowledges before the run, prefork and dramatiq after it.
  {depth:,} messages a round for each: a deep queue costs RabbitMQ itself more a message."""


def _median(raw: Raw, measure: str, row: str, name: str) -> float:
    found = summary(raw, measure, row, name)
    return found.median if found else float("nan")


def rows(raw: Raw) -> list[Row]:
    """Every figure that has a target."""
    ours = (DRAIN, OURS.name)
    drains = [
        (f"drain, against {peer.name}", ratio(raw, "per_s", ours, (DRAIN, peer.name)), least)
        for peer, least in ((CELERY, 5.0), (CELERY_TUNED, 5.0), (DRAMATIQ, 1.7))
    ]
    sends = [
        ("`.delay()` one at a time, without confirms", (SEND, UNCONFIRMED.name), 4_000),
        ("bulk, with confirms", (BULK, OURS.name), 6_000),
    ]
    latency_ms = _median(raw, LATENCY, OURS.name, "p50_ms")
    return [
        *(Row(what, f"{times:.1f}×", f"≥ {least:g}×", times >= least) for what, times, least in drains),
        *(
            Row(what, f"{per_s:,.0f}/s", f"≥ {least:,}/s", per_s >= least)
            for what, place, least in sends
            for per_s in (_median(raw, *place, "sent_per_s"),)
        ),
        Row("idle latency, median", f"{latency_ms:.2f} ms", "≤ 2 ms", latency_ms <= 2),
    ]


def section(raw: Raw, facts: dict[str, str], size: Size, notes: str) -> str:
    """The whole section, from its heading on.

    :param facts: versions and load.
    :param notes: what a person has written about the figures; kept between the runs.
    """
    found = rows(raw)
    missed = [f"* {row.what}: {row.measured}, where {row.target} is wanted." for row in found if not row.met]
    return "\n".join(
        [
            *("## On RabbitMQ", "", "### Against the targets on RabbitMQ", "", *table(found), ""),
            *("### Speeds on RabbitMQ", "", *_speeds(raw), "", *_latencies(raw), ""),
            *(
                "### Method on RabbitMQ",
                "",
                *_METHOD.format(rounds=size.rounds, depth=int(DEPTH * size.share)).splitlines(),
            ),
            *(f"* {engine.name}: {engine.options}." for engine in (*ENGINES, UNCONFIRMED)),
            *(f"* {name}: {value}." for name, value in facts.items()),
            *("", notes.strip(), "", "### What falls short on RabbitMQ", ""),
            *(missed or ["Nothing of the above."]),
            "",
        ]
    )


def _speeds(raw: Raw) -> list[str]:
    lines = [
        "| | drain/s | lowest … highest | CPU a task | send/s | lowest … highest |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in raw.get(DRAIN, {}):
        cpu_us = _median(raw, DRAIN, row, "cpu_us")
        lines.append(
            f"| {row} | {_spread(raw, DRAIN, row, 'per_s')} | {cpu_us:,.1f} µs "
            f"| {_spread(raw, DRAIN, row, 'sent_per_s')} |"
        )
    for measure, row, title in (
        (SEND, UNCONFIRMED.name, UNCONFIRMED.name),
        (BULK, OURS.name, "prefork, bulk"),
    ):
        lines.append(f"| {title} | | | | {_spread(raw, measure, row, 'sent_per_s')} |")
    return lines


def _spread(raw: Raw, measure: str, row: str, name: str) -> str:
    value = summary(raw, measure, row, name)
    return f"{value.median:,.0f} | {value.low:,.0f} … {value.high:,.0f}" if value else "– | –"


def _latencies(raw: Raw) -> list[str]:
    lines = ["| send to start, idle worker | p50 | p99 |", "|---|--:|--:|"]
    for row in raw.get(LATENCY, {}):
        p50_ms, p99_ms = (_median(raw, LATENCY, row, name) for name in ("p50_ms", "p99_ms"))
        lines.append(f"| {row} | {p50_ms:.2f} ms | {p99_ms:.2f} ms |")
    return lines
