"""A thousand deaths and thousands of failures leave nothing behind (I14)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from prefork.transports.base import Depth
from support.stress_worker import Site, StressWorker
from support.waiting import eventually

pytestmark = pytest.mark.one_broker

WARM = 150
DEATHS = 1000
# Children that get something done between deaths are replaced at once (docs/decisions/0012).
WORK_PER_DEATH = 4
BYTES_PER_DEATH = 1024
FAILURES = 3000


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def status(pid: int, name: str) -> int:
    """A number of /proc/PID/status; memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise AssertionError(f"no {name} of {pid}")


def resident_bytes(pid: int) -> int:
    """Anonymous memory only: pages of files come and go as the kernel likes."""
    return status(pid, "RssAnon") * 1024


def zombies(worker: StressWorker) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        try:
            fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] == b"Z" and int(fields[1]) in (worker.pid, *lasting(worker).values()):
            found.append(name)
    return found


def lasting(worker: StressWorker) -> dict[str, int]:
    """The processes that no death of a child should touch."""
    stats = worker.stats()
    return {
        "supervisor": worker.pid,
        "agent": stats["agent"]["pid"],
        "template": stats["templates"][0]["pid"],
    }


def quiet(site: Site, worker: StressWorker, within_s: float) -> None:
    """All work is done and all children are there."""
    eventually(lambda: site.depth() == Depth(0, 0, 0), deadline_s=within_s, every_s=0.05)
    eventually(
        lambda: worker.stats()["unrecovered"] == 0 and len(worker.children()) == worker.concurrency,
        deadline_s=10.0,
        every_s=0.05,
    )


def measured(worker: StressWorker) -> dict[str, tuple[int, int]]:
    return {name: (descriptors(pid), resident_bytes(pid)) for name, pid in lasting(worker).items()}


def deadly(site: Site, deaths: int) -> None:
    """Messages that kill whoever runs them first, among others."""
    for _ in range(deaths):
        for _ in range(WORK_PER_DEATH):
            site.send("work")
        site.send("die_once")


def test_a_thousand_deaths_leave_nothing_behind(site: Site) -> None:
    worker = site.worker(concurrency=4, loglevel="CRITICAL").start()
    processes = lasting(worker)
    deadly(site, WARM)
    quiet(site, worker, 60.0)
    before = measured(worker)
    begun_s = time.monotonic()
    deadly(site, DEATHS)
    quiet(site, worker, 120.0)
    after = measured(worker)
    assert lasting(worker) == processes
    assert worker.stats()["causes"] == {"signal 9": WARM + DEATHS}
    for name in processes:
        grown_bytes = (after[name][1] - before[name][1]) / DEATHS
        print(f"{name}: {before[name][0]} -> {after[name][0]} descriptors, {grown_bytes:.0f} bytes per death")
    print(f"{DEATHS} deaths in {time.monotonic() - begun_s:.1f} s")
    for name in processes:
        assert abs(after[name][0] - before[name][0]) <= 2, name
        assert after[name][1] - before[name][1] < BYTES_PER_DEATH * DEATHS, name
    assert eventually(lambda: not zombies(worker), deadline_s=5.0)
    assert status(processes["supervisor"], "Threads") == 1
    assert len(worker.processes()) == worker.concurrency + 3
    assert worker.stop() == 0


def failures(site: Site, count: int) -> None:
    """Failing tasks, after a warm-up; neither the children nor the others grow."""
    worker = site.worker(concurrency=2, loglevel="CRITICAL").start()
    children = {f"child {pid}": pid for pid in worker.children()}

    def fail(times: int) -> dict[str, tuple[int, int]]:
        for number in range(times):
            site.send("failing", f"failure {number}")
        quiet(site, worker, 30.0 + times / 100)
        processes = {**lasting(worker), **children}
        return {name: (descriptors(pid), resident_bytes(pid)) for name, pid in processes.items()}

    before = fail(count // 3)
    after = fail(count)
    for name, (fds, size_bytes) in after.items():
        grown_bytes = (size_bytes - before[name][1]) / count
        print(f"{name}: {before[name][0]} -> {fds} descriptors, {grown_bytes:.0f} bytes per failure")
    for name, (fds, size_bytes) in after.items():
        assert abs(fds - before[name][0]) <= 2, name
        assert size_bytes - before[name][1] < BYTES_PER_DEATH * count, name
    assert set(children.values()) == set(worker.children())
    assert worker.stats()["totals"]["failed"] == count + count // 3
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


def test_thousands_of_failures_leave_nothing_behind(site: Site) -> None:
    failures(site, FAILURES)


@pytest.mark.soak
def test_20000_failures_leave_nothing_behind(site: Site) -> None:
    failures(site, 20_000)
