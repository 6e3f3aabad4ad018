"""What is measured on Redis, how often and how much of it, kept as plain numbers."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from . import rounds
from .engines import BARE, CELERY, ENGINES, HUEY, PREFORK, WITH_LIMITS, WITH_RESULTS, Engine
from .processes import Others, wait_until_idle
from .rounds import Round
from .server import Server

Raw = dict[str, dict[str, list[dict[str, float]]]]
"""Measure -> engine -> one entry per round: named numbers, or ``failed``."""

Take = Callable[[Round], dict[str, float]]
"""Measures one round: named numbers."""

DRAIN: Final = "drain"
DRAIN_RESULTS: Final = "drain, results"
SEND: Final = "send"
BULK: Final = "bulk"
LATENCY: Final = "latency"
ROUND_TRIP: Final = "round trip"
MEMORY: Final = "memory"
BACKLOG: Final = "backlog"
DELAYED: Final = "delayed"

_INTERVAL_S: Final = 0.02
# Others may take so much of all processors; a round with more is done again, a few times.
_OTHERS_MAX: Final = 0.1
_TRIES: Final = 2
_IDLE_WITHIN_S: Final = 6.0


class Size(NamedTuple):
    """How much of everything.

    :param rounds: of each engine, in turn.
    :param share: of the messages a round that each engine is given.
    :param probes: sends to an idle worker a round.
    :param backlogs: sizes, each with how often it is measured.
    :param delayed: likewise; `behind` tasks run while they wait.
    """

    rounds: int = 5
    share: float = 1.0
    probes: int = 250
    backlogs: tuple[tuple[int, int], ...] = ((1_000, 9), (10_000, 5), (100_000, 3), (1_000_000, 1))
    delayed: tuple[tuple[int, int], ...] = ((0, 5), (100_000, 3), (1_000_000, 1))
    behind: int = 50_000


QUICK: Final = Size(1, 0.25, 100, ((1_000, 3), (100_000, 1)), ((0, 1), (20_000, 1)), 20_000)
TINY: Final = Size(1, 0.01, 5, ((400, 1), (500, 1)), ((0, 1), (20, 1)), 400)


class Job(NamedTuple):
    """One measurement of one engine.

    :ivar times: how often in the whole run.
    """

    measure: str
    engine: Engine
    take: Take
    times: int
    results: bool = False
    title: str = ""

    @property
    def row(self) -> str:
        """Where its numbers are kept within the measure."""
        return self.title or self.engine.name


def jobs(size: Size, delayed_count: Callable[[], int]) -> list[Job]:
    """Everything, in the order of one round.

    :param delayed_count: how many messages wait for their time in the broker.
    """

    def share(count: int) -> int:
        return max(200, int(count * size.share))

    def filled(engine: Engine) -> Take:
        # So many messages that sending them one by one would take longer than all the rest.
        return drain(share(engine.per_round), "bulk" if engine.module == PREFORK.module else "each")

    return [
        *(Job(DRAIN, e, filled(e), size.rounds) for e in ENGINES),
        *(Job(SEND, e, send(share(20_000)), size.rounds) for e in (PREFORK, BARE)),
        Job(BULK, PREFORK, bulk(share(100_000)), size.rounds),
        *(Job(DRAIN_RESULTS, e, filled(e), size.rounds, True) for e in (*WITH_RESULTS, WITH_LIMITS)),
        *(Job(LATENCY, e, latency(size.probes), size.rounds) for e in (PREFORK, CELERY, HUEY)),
        *(
            Job(ROUND_TRIP, e, functools.partial(_round_trip, size.probes), size.rounds, True)
            for e in (PREFORK, CELERY)
        ),
        *(Job(MEMORY, e, functools.partial(_weight, share(3_000)), size.rounds) for e in (PREFORK, CELERY)),
        *(
            Job(BACKLOG, PREFORK, functools.partial(_backlog, count), times, title=f"{count:,}")
            for count, times in size.backlogs
        ),
        *(
            Job(
                DELAYED,
                PREFORK,
                functools.partial(_delayed, count, size.behind, delayed_count),
                times,
                title=f"{count:,}",
            )
            for count, times in size.delayed
        ),
    ]


def run(
    found: Iterable[Job], server: Server, directory: Path, raw: Raw, say: Callable[[str], None], keep: Path
) -> None:
    """Do every job as often as it is wanted, in turn, and keep what is known after each.

    :param raw: completed in place; what it has already is not measured again.
    :param keep: a file for it, so that an interrupted run can go on.
    """
    wanted = list(found)
    for number in range(max(job.times for job in wanted)):
        for job in wanted:
            entries = raw.setdefault(job.measure, {}).setdefault(job.row, [])
            if len(entries) > number or number >= job.times:
                continue
            entry = _undisturbed(job, server, directory, say)
            entries.append(entry)
            say(f"round {number + 1}, {job.measure}, {job.row}: {_shown(entry)}")
            keep.write_text(json.dumps(raw), encoding="utf-8")


def _undisturbed(job: Job, server: Server, directory: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Do a job, again if other programs took too much of the machine meanwhile; the calmest one counts."""
    calmest = {"others": 2.0}
    for _ in range(_TRIES if job.times > 1 else 1):  # what is done once takes minutes, and counts CPU time
        wait_until_idle(_OTHERS_MAX, _IDLE_WITHIN_S)
        one = Round(server, job.engine, Path(tempfile.mkdtemp(dir=directory)), results=job.results)
        others = Others(server.pid)
        try:
            entry = job.take(one)
        except (RuntimeError, subprocess.SubprocessError) as error:
            say(f"FAILED: {job.measure}, {job.row}: {error}")
            return {"failed": 1.0}
        finally:
            one.log.path.unlink(missing_ok=True)
        entry["others"] = others.share()
        if entry["others"] < calmest["others"]:
            calmest = entry
        if calmest["others"] <= _OTHERS_MAX:
            break
    return calmest


def _shown(entry: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in entry.items())


def drain(count: int, how: str = "each") -> Take:
    """Fill a queue with so many messages, and have a worker empty it.

    :param how: ``each`` sends one at a time, and that is measured as well; ``bulk`` is over sooner.
    """

    def take(one: Round) -> dict[str, float]:
        drained = rounds.drain(one, count, how)
        if how == "each":
            return drained._asdict()
        return {"per_s": drained.per_s, "cpu_us": drained.cpu_us}

    return take


def send(count: int) -> Take:
    """Send so many, one after the other."""
    return lambda one: {"sent_per_s": one.enqueue(count)}


def bulk(count: int) -> Take:
    """Send so many at once."""
    return lambda one: {"sent_per_s": one.enqueue(count, "bulk")}


def latency(count: int) -> Take:
    """Send so many to an idle worker, one now and then."""

    def take(one: Round) -> dict[str, float]:
        p50_ms, p99_ms = rounds.latency_ms(one, count, _INTERVAL_S)
        return {"p50_ms": p50_ms, "p99_ms": p99_ms}

    return take


def _round_trip(count: int, one: Round) -> dict[str, float]:
    p50_ms, p99_ms = rounds.round_trip_ms(one, count, _INTERVAL_S)
    return {"p50_ms": p50_ms, "p99_ms": p99_ms}


def _weight(count: int, one: Round) -> dict[str, float]:
    return {"weight_mb": rounds.weight_mb(one, count)}


def _backlog(count: int, one: Round) -> dict[str, float]:
    return rounds.with_backlog(one, count)._asdict()


def _delayed(count: int, tasks: int, delayed_count: Callable[[], int], one: Round) -> dict[str, float]:
    return rounds.with_delayed(one, count, tasks, delayed_count)._asdict()
