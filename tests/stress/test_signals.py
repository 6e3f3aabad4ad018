"""Random scripts of signals, and the stop within its time: everything ended or ready at exit (I8, I28)."""

from __future__ import annotations

import random
import signal
import time

import pytest

from prefork.transports.base import Depth
from support.calibration import allowance_s
from support.stress_worker import Site, StressWorker
from support.waiting import eventually

pytestmark = pytest.mark.one_broker

SCRIPTS = 60
SOFT_S = 1.0
TASK_S = 0.3
HARMLESS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGSTOP)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def settled(site: Site) -> None:
    """At this moment nothing is held, and everything that has not ended is ready."""
    assert site.depth().in_work == 0
    site.ledger.read()
    waiting = site.waiting()
    missing = set(site.accepted) - site.ledger.finished - set(waiting)
    assert missing == set()
    # Who was interrupted by a stop is not to blame.
    assert {item.crashes for item in waiting.values()} <= {0}


def play(worker: StressWorker, dice: random.Random) -> list[str]:
    """Send a random script, which ends with a signal that stops; returns the names."""
    script = [dice.choice((*HARMLESS, *HARMLESS, *STOPPING)) for _ in range(dice.randrange(0, 8))]
    played = []
    for number in [*script, dice.choice(STOPPING)]:
        if worker.process is None or worker.process.poll() is not None:
            break
        worker.signal(number)
        played.append(number.name)
        time.sleep(dice.choice((0, 0, 0.002, 0.03, 0.1)))  # the script itself is what varies
        if number is signal.SIGSTOP:
            worker.signal(signal.SIGCONT)
    return played


def run_scripts(site: Site, dice: random.Random, scripts: int) -> None:
    longest_s, interrupted = 0.0, 0
    for _ in range(scripts):
        while site.depth().ready < 12:
            site.send("work", dice.uniform(0.0, TASK_S))
        worker = site.worker(concurrency=2, worker_soft_shutdown_timeout=SOFT_S)
        if dice.random() < 0.7:
            worker.start()
            eventually(lambda own=worker: set(site.ledger.read().running()) & set(own.children()))
        else:
            worker.launch()
            # It has a template or more: from then on signals are the worker's own.
            eventually(lambda own=worker: len(own.processes()) > 1)
            time.sleep(dice.uniform(0.0, 0.1))
        running = len(worker.processes()) > 3
        played = play(worker, dice)
        begun_s = time.monotonic()
        code = worker.wait(SOFT_S + TASK_S + allowance_s(3.0, 3.0))
        longest_s = max(longest_s, time.monotonic() - begun_s)
        interrupted += running
        assert code == 0, (played, worker.log)
        assert "Traceback" not in worker.log, (played, worker.log)
        settled(site)
        worker.gone()
    print(f"{scripts} scripts, {interrupted} of complete workers, longest end {longest_s:.2f} s")
    assert interrupted >= scripts // 2
    site.worker(concurrency=4).start()
    site.finished(60.0)


def test_any_script_of_signals_ends_in_time_with_everything_in_its_place(
    site: Site, dice: random.Random
) -> None:
    run_scripts(site, dice, SCRIPTS)


@pytest.mark.soak
def test_any_script_of_signals_ends_in_time_with_everything_in_its_place_300(
    site: Site, dice: random.Random
) -> None:
    run_scripts(site, dice, 300)


def test_term_gives_back_what_it_cannot_finish_before_the_exit(site: Site, dice: random.Random) -> None:
    finished_before_exit = given_back = 0
    for _ in range(4):
        ids = [site.send("work", dice.uniform(0.0, 3.0)) for _ in range(10)]
        worker = site.worker(concurrency=4, worker_soft_shutdown_timeout=SOFT_S).start()
        eventually(lambda wanted=ids: wanted[3] in {run.task_id for run in site.ledger.executions()})
        running = set(site.ledger.read().running()) & set(worker.children())
        begun_s = time.monotonic()
        assert worker.stop(SOFT_S + allowance_s(2.0, 2.0)) == 0
        took_s = time.monotonic() - begun_s
        settled(site)
        cut = running & set(site.ledger.running())
        finished_before_exit += len(running) - len(cut)
        given_back += len(cut)
        print(f"exit after {took_s:.2f} s, {len(running)} ran, {len(cut)} were given back")
        site.app.client.transport.purge("celery")
        site.accepted = [task_id for task_id in site.accepted if task_id in site.ledger.finished]
        assert site.depth() == Depth(0, 0, 0)
    assert given_back
    assert finished_before_exit
