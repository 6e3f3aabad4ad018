"""The figures of the embedded broker: what was reached, what falls short, and how it was measured."""

from __future__ import annotations

from typing import Final, NamedTuple

from .contestants import CHILDREN
from .plan import Backlog, Figures, Size, Speeds
from .records import Summary

PREFORK = "prefork"
PREFORK_FSYNC = "prefork, fsync"
HUEY = "Huey, defaults, fsync"
HUEY_TUNED_FSYNC = "Huey, tuned, fsync"
HUEY_TUNED = "Huey, tuned, no fsync"

_METHOD: Final = """\
* Everything runs in turn in one run, {size.rounds} rounds; medians. A new queue for each round, on the
  file system named below. Prefork sends {size.messages:,} messages a round ({size.stored:,} with results),
  Huey without flushes as many, and whoever flushes at every commit {size.flushed:,}.
* **Durability.** Huey's `SqliteHuey` leaves SQLite's `synchronous` alone unless `fsync` is given; with the
  write-ahead log that it switches on, SQLite then flushes at every commit. Prefork's default does not
  flush: the death of processes loses nothing, a loss of power may lose the last seconds. Both also ran
  with the other's setting (`fsync=False`; `broker_transport_options={{"fsync": True}}`), because a
  comparison of defaults alone is in part one of flushes.
* **Enqueue**: one process calls `noop.delay(i)` (Huey: `noop(i)`), one message at a time.
* **Drain**: the messages are there before the worker starts, with {children} children (Huey: `-w {children}
  -k process`). Each task stores the monotonic time in a mapped file, by the same code for both; the rate
  counts from the first to the last of them. Every message must have run exactly once, and the queue be
  empty at the end. "Huey, tuned" has no log of executions, no scheduler, no health check, and waits of
  1 to 10 ms (`-q -n -C -d 0.001 -m 0.01`).
* Nothing is removed before the end: ext4 makes files slowly for seconds after thousands were deleted, and
  one round would hinder the next.
* **Latency**: {size.sends} sends at irregular intervals of 10 to 30 ms, from the call of `delay()` to the
  first line of the task.
* **Ready**: from the exec of `prefork worker -c 2` until it says READY, health agrees and both children
  are ready. **Memory**: of supervisor, template, agent and two children that have run tasks, then the
  largest of four more; MB are 10⁶ bytes.
* **Backlog**: CPU time of the processes that send and run, user and system, because other programs hardly
  change it; sending over the last thousand messages, running without the first 150 tasks of each child."""

_NOTES: Final = """\
* With the defaults of both, prefork flushes nothing and Huey flushes each message: part of that ratio is
  the flush. The rows of equal durability say how much. Where nobody flushes, a single `delay()` costs about
  what a commit of SQLite costs, because each makes a message, takes a lock and writes a page or two;
  where everybody flushes, the disk decides. Draining gains from settling many messages at once.
* A result is a file. ext4 **without a journal** (some virtual machines' root) will not reuse an inode that
  was deleted in the last minutes, and searches past each of them: right after thousands of files were deleted
  there, storing a result was seen to cost 300 to 500 µs instead of 30. ext4 with a journal has no such
  search, nor has tmpfs."""


class Row(NamedTuple):
    """One figure against its target."""

    what: str
    measured: str
    target: str
    met: bool


def _at_most(what: str, value: float, limit: float, unit: str, digits: int = 1) -> Row:
    return Row(what, f"{value:.{digits}f} {unit}", f"≤ {limit:g} {unit}", value <= limit)


def _ratio(what: str, ours: Summary, theirs: Summary, target: float) -> Row:
    ratio = ours.median / theirs.median
    return Row(what, f"{ratio:.1f}×", f"≥ {target:g}×", ratio >= target)


def rows(figures: Figures) -> list[Row]:
    """Every figure that has a target."""
    off, on = figures.off, figures.on
    p50_ms, p99_ms = figures.latency_ms
    engine, app = figures.imports_ms
    return [
        _ratio("drain, results off, both with their defaults", off[PREFORK].drain, off[HUEY].drain, 5),
        _ratio("drain, results on, both with their defaults", on[PREFORK].drain, on[HUEY].drain, 3),
        _ratio("enqueue, both with their defaults", off[PREFORK].enqueue, off[HUEY].enqueue, 4),
        *_equal_durability(figures),
        _at_most("idle latency, median", p50_ms, 2, "ms", 2),
        _at_most("idle latency, 99th percentile", p99_ms, 10, "ms", 2),
        _at_most("worker ready", figures.ready_s.median, 0.6, "s", 2),
        _at_most("whole worker, PSS", figures.weight.whole, 55, "MB"),
        _at_most("supervisor, PSS", figures.weight.supervisor, 12, "MB"),
        _at_most("each further child, private", figures.weight.further_child, 8, "MB"),
        _flatness("drain", [one.drain_us for one in figures.backlogs]),
        _flatness("enqueue", [one.enqueue_us for one in figures.backlogs]),
        _at_most("`import prefork.engine`", engine.median, 20, "ms"),
        _at_most("import of `App`, an app and a task", app.median, 130, "ms"),
    ]


def _equal_durability(figures: Figures) -> list[Row]:
    pairs = (
        ("no flush on either side, Huey tuned", PREFORK, HUEY_TUNED),
        ("flush at every commit on both sides, Huey tuned", PREFORK_FSYNC, HUEY_TUNED_FSYNC),
    )
    found = []
    for what, ours, theirs in pairs:
        found += [
            _ratio(f"drain, results off, {what}", figures.off[ours].drain, figures.off[theirs].drain, 5),
            _ratio(f"drain, results on, {what}", figures.on[ours].drain, figures.on[theirs].drain, 3),
            _ratio(f"enqueue, {what}", figures.off[ours].enqueue, figures.off[theirs].enqueue, 4),
        ]
    return found


def _flatness(what: str, costs: list[Summary]) -> Row:
    medians = [cost.median for cost in costs]
    low, high = min(medians) / medians[0] - 1, max(medians) / medians[0] - 1
    return Row(
        f"{what}: cost a message with the longer backlogs, against the shortest",
        f"{low:+.0%} … {high:+.0%}",
        "within ±20 %",
        max(abs(low), abs(high)) <= 0.2,
    )


def _speeds(speeds: dict[str, Speeds]) -> list[str]:
    lines = ["| | enqueue/s | lowest … highest | drain/s | lowest … highest |", "|---|--:|--:|--:|--:|"]
    for name, one in speeds.items():
        lines.append(f"| {name} | {_summary(one.enqueue)} | {_summary(one.drain)} |")
    return lines


def _summary(value: Summary) -> str:
    return f"{value.median:,.0f} | {value.low:,.0f} … {value.high:,.0f}"


def _backlogs(backlogs: list[Backlog]) -> list[str]:
    lines = ["| backlog | enqueue, µs of CPU a message | drain, µs of CPU a task |", "|--:|--:|--:|"]
    return lines + [
        f"| {one.size:,} | {one.enqueue_us.median:.1f} | {one.drain_us.median:.1f} |" for one in backlogs
    ]


def table(found: list[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = ["| figure | measured | target | |", "|---|--:|--:|---|"]
    return lines + [
        f"| {row.what} | {row.measured} | {row.target} | {'met' if row.met else '**missed**'} |"
        for row in found
    ]


def embedded_section(
    figures: Figures, machine: dict[str, str], size: Size, loads: tuple[float, float]
) -> str:
    """The whole section about the embedded broker, from its heading on."""
    found = rows(figures)
    missed = [f"* {row.what}: {row.measured}, where {row.target} is wanted." for row in found if not row.met]
    return "\n".join(
        [
            *("## The embedded broker", "", "### Against the targets", "", *table(found), ""),
            *("### Speeds, results off", "", *_speeds(figures.off), ""),
            *("### Speeds, results on", "", *_speeds(figures.on), ""),
            *("### Cost against the length of the backlog", "", *_backlogs(figures.backlogs), ""),
            *_method(size),
            *("### Machine", "", "| | |", "|---|---|"),
            *(f"| {name} | {value} |" for name, value in machine.items()),
            f"| load average when it began, and at its highest | {loads[0]:.2f}, {loads[1]:.2f} |",
            *("", "### Notes", "", *_NOTES.splitlines(), ""),
            *("### What falls short", "", *(missed or ["Nothing of the above."]), ""),
        ]
    )


def _method(size: Size) -> list[str]:
    filled = _METHOD.format(size=size, children=CHILDREN)
    return ["### Method", "", *filled.splitlines(), ""]
