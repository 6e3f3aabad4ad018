"""Limits of four real workers, of a long backlog, and in storms of kills."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil
import pytest

from prefork.engine.embed import Worker
from prefork.transports.base import Outgoing
from support.calibration import Waits
from support.semantics import Fleet, fleet_of
from support.waiting import eventually

pytestmark = pytest.mark.slow
RATE = 100
WORKER = {"task_max_crashes": 100}
SOURCE = """
app = App("load", task_max_crashes=100, worker_lease=3.0, worker_lease_renew_interval=0.5, **SETTINGS)
OTHERS = os.open(ROOT / "others", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task(rate_limit="100/s", ignore_result=True)
def local(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task(global_rate_limit="100/s", ignore_result=True)
def shared(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task(max_concurrency=2, rate_limit="200/s", ignore_result=True)
def narrow(run, number):
    time.sleep(0.01)
    note(run, f"{time.monotonic()} {number}")


@app.task(rate_limit="2/s", ignore_result=True)
def rare(number):
    pass


@app.task(ignore_result=True)
def other(number):
    os.write(OTHERS, b"x")
"""


def send_many(fleet: Fleet, send: Callable[[], None]) -> None:
    """Send in few calls of the broker."""
    with fleet.app.client.collecting() as messages:
        send()
    for at in range(0, len(messages), 500):
        fleet.transport.send(list[Outgoing](messages[at : at + 500]))


def keeps_the_rate(fleet: Fleet, run: str, waits: Waits) -> None:
    """As many started in ten seconds, the first of which is not the one in which everything began.

    A failure says what the machine took from takers meanwhile.
    """
    eventually(lambda: len(fleet.notes(run)) == 12 * RATE, deadline_s=40, every_s=0.2)
    waited_s = waits.so_far_s
    moments = sorted(float(line.split()[0]) for line in fleet.notes(run))
    count = sum(moments[0] + 1 <= moment < moments[0] + 11 for moment in moments)
    print(f"{count} in ten seconds; the machine took {waited_s:.2f} s")
    assert 9.8 * RATE <= count <= 10.2 * RATE, (count, waited_s)


@pytest.mark.serial
@pytest.mark.needs("several_processes")
@pytest.mark.soak_on("filesystem", "amqp")
def test_a_worker_keeps_its_rate_within_two_percent(fleet: Fleet) -> None:
    run, waits = fleet.unique("local"), Waits()
    send_many(fleet, lambda: [fleet.task("local").delay(run, number) for number in range(12 * RATE)])
    keeps_the_rate(fleet, run, waits)


@pytest.mark.serial
@pytest.mark.needs("several_processes", "coordinates")
@pytest.mark.soak_on("filesystem", "amqp")
def test_four_workers_keep_a_rate_together_within_two_percent(fleet: Fleet) -> None:
    run = fleet.unique("shared")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(fleet.another_worker())
        waits = Waits()
        send_many(fleet, lambda: [fleet.task("shared").delay(run, number) for number in range(12 * RATE)])
        keeps_the_rate(fleet, run, waits)


# --- a long backlog --------------------------------------------------------------------------------


def cost_us(fleet: Fleet, count: int = 4000) -> float:
    """What one of the other tasks costs the worker, in microseconds of processor time.

    Not how long it takes: that depends on what else the machine does.
    """
    path = fleet.root / "others"
    before, spent_s = path.stat().st_size, spent(fleet)
    send_many(fleet, lambda: [fleet.task("other").delay(number) for number in range(count)])
    eventually(lambda: path.stat().st_size >= before + count, deadline_s=60)
    return (spent(fleet) - spent_s) / count * 1e6


def spent(fleet: Fleet) -> float:
    """Processor time of the worker's processes, in seconds."""
    times = [process.cpu_times() for process in processes_of(fleet)]
    return sum(one.user + one.system for one in times)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broker", [pytest.param("filesystem", marks=pytest.mark.soak), "redis"])
def test_a_hundred_thousand_limited_messages_slow_nothing_down(broker: str, tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("without", "beside")]
    for root in roots:
        root.mkdir()
    with (
        fleet_of(broker, "without_backlog", SOURCE, roots[0]) as without,
        fleet_of(broker, "beside_backlog", SOURCE, roots[1]) as beside,
    ):
        send_many(beside, lambda: [beside.task("rare").delay(number) for number in range(100_000)])
        begun_s = time.monotonic()
        cost_us(beside, 2000)  # behind all of them
        assert time.monotonic() - begun_s < 60
        cost_us(without, 2000)
        # In turns, since what else the machine does makes both dearer.
        costs = [(cost_us(without), cost_us(beside)) for _ in range(11)]
        assert beside.depth("celery").ready == 0
        lane = beside.depth("celery.limited." + beside.task("rare").name)
        assert 99_000 < lane.ready < 100_000
    assert median(second / first for first, second in costs) < 1.4, costs


# --- storms ----------------------------------------------------------------------------------------


def processes_of(fleet: Fleet) -> list[psutil.Process]:
    """The processes of the worker below its supervisor."""
    assert isinstance(fleet.worker, Worker)
    return psutil.Process(fleet.worker.pid).children(recursive=True)


@pytest.mark.timeout(180)
@pytest.mark.needs("several_processes", "coordinates")
def test_kills_of_any_process_lose_nothing_that_is_limited(fleet: Fleet) -> None:
    run, chance = fleet.unique("storm"), random.Random(5)
    kinds = ("local", "shared", "narrow")

    def send() -> None:
        for number in range(600):
            fleet.task(kinds[number % 3]).delay(run, number)

    send_many(fleet, send)
    ends_s = time.monotonic() + 8
    while time.monotonic() < ends_s:
        victims = processes_of(fleet)
        try:
            if victims:
                chance.choice(victims).kill()
        except psutil.NoSuchProcess:
            continue  # such as one that lived to fork another, and no longer
        time.sleep(0.4)
    fleet.kill_worker()
    fleet.start_worker()
    eventually(lambda: len(numbers(fleet, run)) == 600, deadline_s=60, every_s=0.2)
    assert fleet.dead() == []
    # Nobody sits on a slot.
    again = fleet.unique("after")
    send_many(fleet, lambda: [fleet.task("narrow").delay(again, number) for number in range(20)])
    eventually(lambda: len(numbers(fleet, again)) == 20, deadline_s=20)


def numbers(fleet: Fleet, run: str) -> set[int]:
    """The numbers of the tasks that ran."""
    return {int(line.split()[1]) for line in fleet.notes(run)}
