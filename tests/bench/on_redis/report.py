"""The section of the page about Redis: what was reached, what falls short, and how it was measured."""

from __future__ import annotations

import statistics
from typing import Final, NamedTuple

from ..records import Summary
from .engines import BARE, CELERY, ENGINES, PEERS, PREFORK, WITH_LIMITS
from .plan import (
    BACKLOG,
    BULK,
    DELAYED,
    DRAIN,
    DRAIN_RESULTS,
    LATENCY,
    MEMORY,
    ROUND_TRIP,
    SEND,
    Raw,
    Size,
)

_METHOD: Final = """\
* One private Redis server (on the loopback, nothing saved) for all, emptied before each round; two
  worker processes for each engine; {rounds} rounds, the engines in turn within each, so that a busy
  moment of the machine meets all of them. Figures are medians over the rounds; a ratio is the median of
  the rounds' ratios.
* Before each round the harness waits (6 s at most) until other programs leave the processors alone, and
  a round during which they took more than a tenth of them is done again; the calmer one counts. The
  table below says what they took.
* The task does nothing but append one record (24 bytes, one `write`) to one file that all processes
  share. A round counts only if every message is in the log exactly once after the worker has been
  stopped in order.
* **Drain**: the messages are there before the worker starts; the rate counts from the first record to
  the last. **CPU** is what all processes of the worker used, from the moment when a tenth had run, a
  task.
* **Sending**: one process, one call after the other, {first:,} (RQ, Celery) to 20,000 messages; compared
  with a bare `LPUSH` of 800 bytes through redis-py in the same round. **Bulk**: `map_async` of 10,000 at
  a time.
* **Latency**: {size.probes} sends a round to an idle worker at irregular intervals of 10 to 30 ms, from
  just before the call to the first line of the task; **round trip**: from the call to the result in the
  caller's hands.
* **Memory**: PSS of all processes of a worker that has run 3,000 tasks, MB of 10⁶ bytes.
* **Backlog**: CPU time of the children a task, without the first 150 tasks of each (they learn that the
  task is short); memory when half of the queue has run. **Delayed**: {size.behind:,} tasks while so many
  others, due tomorrow, wait in the schedule."""


class Row(NamedTuple):
    """One figure against its target."""

    what: str
    measured: str
    target: str
    met: bool


def values(raw: Raw, measure: str, row: str, name: str) -> list[float]:
    """One figure of every round that did not fail."""
    return [entry[name] for entry in raw.get(measure, {}).get(row, []) if name in entry]


def summary(raw: Raw, measure: str, row: str, name: str) -> Summary | None:
    """Its median and extremes; None if it was never measured."""
    found = values(raw, measure, row, name)
    return Summary.of(found) if found else None


def ratio(raw: Raw, name: str, ours: tuple[str, str], theirs: tuple[str, str]) -> float:
    """Median of the rounds' ratios; nan if there is no round that both finished."""
    above, below = (raw.get(measure, {}).get(row, []) for measure, row in (ours, theirs))
    found = [one[name] / other[name] for one, other in zip(above, below) if name in one and name in other]
    return statistics.median(found) if found else float("nan")


def rows(raw: Raw) -> list[Row]:
    """Every figure that has a target."""
    drain, on, send = (DRAIN, PREFORK.name), (DRAIN_RESULTS, PREFORK.name), "sent_per_s"
    fastest = max(PEERS, key=lambda peer: _median(raw, DRAIN, peer.name, "per_s"))
    limits = ratio(raw, "per_s", (DRAIN_RESULTS, WITH_LIMITS.name), on)
    sent = (SEND, PREFORK.name)
    bare = ratio(raw, send, sent, (SEND, BARE.name))
    return [
        _times("drain, results off, against Celery", ratio(raw, "per_s", drain, (DRAIN, CELERY.name)), 45),
        _times(
            f"drain, results off, against the fastest peer ({fastest.name})",
            ratio(raw, "per_s", drain, (DRAIN, fastest.name)),
            8,
        ),
        _times(
            "drain, results stored and published, against Celery",
            ratio(raw, "per_s", on, (DRAIN_RESULTS, CELERY.name)),
            30,
        ),
        Row("with limits and STARTED, of that", f"{limits:.0%}", "≥ 60 %", limits >= 0.6),
        _times("`.delay()`, against Celery", ratio(raw, send, sent, (DRAIN, CELERY.name)), 8),
        Row("`.delay()`, of a bare `LPUSH`", f"{bare:.0%}", "≥ 65 %", bare >= 0.65),
        _bulk(raw),
        _at_most("idle latency, median", _median(raw, LATENCY, PREFORK.name, "p50_ms"), 1, "ms", 2),
        _at_most("idle latency, 99th percentile", _median(raw, LATENCY, PREFORK.name, "p99_ms"), 4, "ms", 2),
        _at_most("round trip, median", _median(raw, ROUND_TRIP, PREFORK.name, "p50_ms"), 2, "ms", 2),
        _at_most("CPU a task, whole worker", _median(raw, *drain, "cpu_us"), 40, "µs", 1),
        _at_most("whole worker, PSS", _median(raw, MEMORY, PREFORK.name, "weight_mb"), 66, "MB", 1),
        *_flatness(raw),
    ]


def _median(raw: Raw, measure: str, row: str, name: str) -> float:
    found = summary(raw, measure, row, name)
    return found.median if found else float("nan")


def _times(what: str, measured: float, target: float) -> Row:
    return Row(what, f"{measured:.1f}×", f"≥ {target:g}×", measured >= target)


def _at_most(what: str, value: float, limit: float, unit: str, digits: int) -> Row:
    return Row(what, f"{value:.{digits}f} {unit}", f"≤ {limit:g} {unit}", value <= limit)


def _bulk(raw: Raw) -> Row:
    per_s = _median(raw, BULK, PREFORK.name, "sent_per_s")
    return Row("bulk enqueue", f"{per_s:,.0f}/s", "≥ 45,000/s", per_s >= 45_000)


def _flatness(raw: Raw) -> list[Row]:
    found = []
    for measure, what in ((BACKLOG, "longer backlogs"), (DELAYED, "more delayed messages")):
        for name, shown in (("drain_us", "CPU a task"), ("weight_mb", "memory")):
            medians = [_median(raw, measure, row, name) for row in raw.get(measure, {})]
            low, high = (f(medians) / medians[0] - 1 if medians else float("nan") for f in (min, max))
            met = max(abs(low), abs(high)) <= 0.2
            found.append(Row(f"{shown} with {what}", f"{low:+.0%} … {high:+.0%}", "within ±20 %", met))
    return found


def table(found: list[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = ["| figure | measured | target | |", "|---|--:|--:|---|"]
    return lines + [
        f"| {row.what} | {row.measured} | {row.target} | {'met' if row.met else '**missed**'} |"
        for row in found
    ]


def section(raw: Raw, facts: dict[str, str], size: Size, notes: str) -> str:
    """The whole section, from its heading on.

    :param facts: machine, versions, load.
    :param notes: what a person has written about the figures; kept between the runs.
    """
    found = rows(raw)
    missed = [f"* {row.what}: {row.measured}, where {row.target} is wanted." for row in found if not row.met]
    method = _METHOD.format(size=size, rounds=_rounds(raw), first=3_000)
    return "\n".join(
        [
            *("## On Redis", "", "![Tasks a second of all engines](benchmarks.png)", ""),
            *("### Against the targets on Redis", "", *table(found), ""),
            *("### Drain and send, results off", "", *_speeds(raw, DRAIN), ""),
            *("### Drain, results stored", "", *_speeds(raw, DRAIN_RESULTS), ""),
            *("### An idle worker", "", *_idle(raw), ""),
            *("### Cost against what waits", "", *_waiting(raw), ""),
            *("### Method on Redis", "", *method.splitlines()),
            *(f"* {engine.name}: {engine.options}." for engine in (*ENGINES, WITH_LIMITS)),
            *("", "### Machine of the Redis figures", "", "| | |", "|---|---|"),
            *(f"| {name} | {value} |" for name, value in facts.items()),
            f"| share of the processors that others took during a round: median, most | {_others(raw)} |",
            *("", notes.strip(), ""),
            *(
                "### What falls short on Redis",
                "",
                *(missed or ["Nothing of the above."]),
                *_failures(raw),
                "",
            ),
        ]
    )


def _rounds(raw: Raw) -> str:
    """How many rounds the figures that have targets come from."""
    counts = [
        len(entries)
        for measure, found in raw.items()
        for entries in found.values()
        if measure not in (BACKLOG, DELAYED)
    ]
    fewest, most = min(counts, default=0), max(counts, default=0)
    return str(most) if fewest == most else f"{fewest} to {most}"


def _others(raw: Raw) -> str:
    shares = [e["others"] for rows_ in raw.values() for es in rows_.values() for e in es if "others" in e]
    return f"{statistics.median(shares):.0%}, {max(shares):.0%}" if shares else "unknown"


def _failures(raw: Raw) -> list[str]:
    return [
        f"* {measure}, {row}: {failed} of {len(entries)} rounds failed."
        for measure, engines in raw.items()
        for row, entries in engines.items()
        if (failed := sum("failed" in entry for entry in entries))
    ]


def _speeds(raw: Raw, measure: str) -> list[str]:
    lines = [
        "| | drain/s | lowest … highest | CPU a task | send/s | lowest … highest |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in raw.get(measure, {}):
        drained = summary(raw, measure, row, "per_s")
        sent = summary(raw, SEND if measure == DRAIN and row == PREFORK.name else measure, row, "sent_per_s")
        cpu_us = _median(raw, measure, row, "cpu_us")
        lines.append(f"| {row} | {_spread(drained)} | {cpu_us:,.1f} µs | {_spread(sent)} |")
    for other, title in (((SEND, BARE.name), BARE.name), ((BULK, PREFORK.name), "prefork, bulk")):
        if measure == DRAIN:
            lines.append(f"| {title} | | | | {_spread(summary(raw, *other, 'sent_per_s'))} |")
    return lines


def _spread(value: Summary | None) -> str:
    return f"{value.median:,.0f} | {value.low:,.0f} … {value.high:,.0f}" if value else "– | –"


def _idle(raw: Raw) -> list[str]:
    lines = ["| | latency p50 | p99 | round trip p50 | p99 | memory |", "|---|--:|--:|--:|--:|--:|"]
    for row in raw.get(LATENCY, {}):
        cells = [
            *(f"{_median(raw, LATENCY, row, name):.2f} ms" for name in ("p50_ms", "p99_ms")),
            *(f"{_median(raw, ROUND_TRIP, row, name):.2f} ms" for name in ("p50_ms", "p99_ms")),
            f"{_median(raw, MEMORY, row, 'weight_mb'):.1f} MB",
        ]
        lines.append(f"| {row} | " + " | ".join("–" if "nan" in cell else cell for cell in cells) + " |")
    return lines


def _waiting(raw: Raw) -> list[str]:
    lines = ["| | messages | CPU a task | memory |", "|---|--:|--:|--:|"]
    for measure in (BACKLOG, DELAYED):
        for row in raw.get(measure, {}):
            cpu_us, weight_mb = (_median(raw, measure, row, name) for name in ("drain_us", "weight_mb"))
            lines.append(f"| {measure} | {row} | {cpu_us:.1f} µs | {weight_mb:.1f} MB |")
    return lines
