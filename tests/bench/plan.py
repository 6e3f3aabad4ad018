"""What is measured, how often and how much of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from .contestants import Contestant, Huey, Prefork
from .footprint import Weight, import_ms, latency_ms, ready_s, weight
from .records import Records, Summary, cost_us, private_directory

T = TypeVar("T")

# Runs while a worker learns that a task is short; see `cost_us`.
_WARM_UP_RUNS = 150
_LATENCY_INTERVAL_S = 0.02

IMPORT_ENGINE = "import prefork.engine"
IMPORT_APP = "from prefork.engine import App; app = App('bench'); app.task(print, name='bench.print')"


class Size(NamedTuple):
    """How much of everything.

    :param rounds: of each contestant, in turn.
    :param messages: of prefork a round.
    :param flushed: messages of whoever flushes at every commit, a round.
    :param stored: messages a round where results are kept.
    :param backlogs: sizes, each with how often it is measured.
    """

    rounds: int = 5
    messages: int = 50_000
    flushed: int = 4_000
    stored: int = 10_000
    sends: int = 500
    starts: int = 5
    backlogs: tuple[tuple[int, int], ...] = ((1_000, 9), (10_000, 5), (100_000, 3), (1_000_000, 1))


TINY = Size(
    rounds=1, messages=600, flushed=60, stored=60, sends=20, starts=1, backlogs=((1_000, 1), (2_000, 1))
)


class Speeds(NamedTuple):
    """Messages a second of one contestant."""

    enqueue: Summary
    drain: Summary


class Backlog(NamedTuple):
    """Microseconds of CPU time a message, with so many waiting at the start."""

    size: int
    enqueue_us: Summary
    drain_us: Summary


class Figures(NamedTuple):
    """Everything that was measured."""

    off: dict[str, Speeds]
    on: dict[str, Speeds]
    latency_ms: tuple[float, float]
    ready_s: Summary
    weight: Weight
    imports_ms: tuple[Summary, Summary]
    backlogs: list[Backlog]


def contestants(*, results: bool) -> list[Contestant]:
    """Who is measured in turn."""
    return [
        Prefork(fsync=False, results=results),
        Huey(tuned=False, fsync="default", results=results),
        Prefork(fsync=True, results=results),
        Huey(tuned=True, fsync="default", results=results),
        Huey(tuned=True, fsync="0", results=results),
    ]


def measure(directory: Path, size: Size, say: Callable[[str], None], quiet: Callable[[], None]) -> Figures:
    """Measure everything, with its files below a directory.

    :param say: told what is done next.
    :param quiet: waits until nothing else keeps the machine busy.
    """
    run = _Run(directory, size, say, quiet)
    off = run.in_turn(results=False)
    on = run.in_turn(results=True)
    return Figures(
        off=off,
        on=on,
        latency_ms=run.scratch("latency", lambda path: latency_ms(path, size.sends, _LATENCY_INTERVAL_S)),
        ready_s=Summary.of([run.scratch("start", ready_s) for _ in range(size.starts)]),
        weight=run.scratch("memory", lambda path: weight(path, min(size.messages, 3_000))),
        imports_ms=(run.imports(IMPORT_ENGINE), run.imports(IMPORT_APP)),
        backlogs=[run.backlog(length, times) for length, times in size.backlogs],
    )


class _Run:
    def __init__(
        self, directory: Path, size: Size, say: Callable[[str], None], quiet: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._size = size
        self._say = say
        self._quiet = quiet

    def scratch(self, title: str, action: Callable[[Path], T]) -> T:
        """Do something with a directory of its own, when the machine is quiet.

        Nothing is removed before the end of the run: ext4 searches past inodes that were deleted in the
        last seconds, so one round's removal would be paid by the creations of the next.
        """
        self._quiet()
        self._say(title)
        return action(Path(tempfile.mkdtemp(dir=self._directory)))

    def in_turn(self, *, results: bool) -> dict[str, Speeds]:
        """All contestants, one after the other, again and again."""
        measured: dict[str, list[tuple[float, float]]] = {}
        for number in range(self._size.rounds):
            for contestant in contestants(results=results):
                messages = self._messages(contestant)
                title = f"round {number + 1}, {contestant.name}, results {'on' if results else 'off'}"
                one = self.scratch(title, lambda path: contestant.measure(path, messages))  # noqa: B023
                self._say(f"    enqueue {one.enqueue:,.0f}/s, drain {one.drain:,.0f}/s")
                measured.setdefault(contestant.name, []).append(one)
        return {
            name: Speeds(Summary.of([e for e, _ in pairs]), Summary.of([d for _, d in pairs]))
            for name, pairs in measured.items()
        }

    def _messages(self, contestant: Contestant) -> int:
        if contestant.flushes:
            return self._size.flushed
        return self._size.stored if contestant.results else self._size.messages

    def imports(self, statement: str) -> Summary:
        """Repeatedly; the first one, which reads the files from the disk, does not count."""
        self._quiet()
        self._say(statement)
        return Summary.of([import_ms(statement) for _ in range(self._size.starts + 1)][1:])

    def backlog(self, length: int, times: int) -> Backlog:
        """What a task costs with so many waiting."""
        pairs = [
            self.scratch(f"backlog of {length:,}", lambda path: _backlog(path, length)) for _ in range(times)
        ]
        self._say(f"    enqueue {pairs[0][0]:.1f} µs, drain {pairs[0][1]:.1f} µs")
        return Backlog(length, Summary.of([e for e, _ in pairs]), Summary.of([d for _, d in pairs]))


def _backlog(path: Path, length: int) -> tuple[float, float]:
    """Microseconds of CPU time a message: sending the last thousand, and draining all."""
    contestant = Prefork(fsync=False, results=False)
    directory = private_directory(path, "round")
    records = Records(directory / "records")
    environ = {**contestant.environ(directory, records, length), "BENCH_CLOCK": "cpu"}
    last = min(1_000, length // 2)
    contestant.send(environ, length - last)
    told = contestant.sent(environ, last)
    enqueue_us = told["cpu_s"] * 1e6 / told["sent"]
    with contestant.worker(environ, directory) as worker:
        records.wait(length, 300.0, lambda: worker.poll() is None)
    return enqueue_us, cost_us(records.by_process(), _WARM_UP_RUNS)
