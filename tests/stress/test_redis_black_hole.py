"""A broker or a result store that swallows everything: limits, answers and the stop keep their time.

Fault test 8, I4, I5, I26, I27.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from prefork.engine.exceptions import TimeLimitExceeded
from support.calibration import allowance_s
from support.ledger import boot_ns
from support.redis_stress import Pulse, RedisSite, redis_site
from support.stress_worker import StressWorker, group_members
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import eventually

HOLE_S = 6.0
LIMIT_S = 2.0
SOFT_STOP_S = 2.0
BACK_S = 5.0
ANSWER_S = 1.0
LEASE = {"worker_lease": 4.0, "worker_lease_renew_interval": 1.0}


def begin_limited(site: RedisSite) -> list[str]:
    """Start a task for each of two children that only its hard limit ends."""
    ids = [site.send("misbehave", kind, time_limit=LIMIT_S) for kind in ("stuck with gil", "grandchild")]
    for task_id in ids:
        site.started(task_id)
    return ids


def limits_hold(site: RedisSite, ids: list[str]) -> float:
    """Wait until the limit has ended each of them; returns the longest delay, in seconds."""
    slowest_s = 0.0
    for task_id in ids:
        [run] = site.starts(task_id)
        eventually(lambda pid=run.pid: not group_members(pid), deadline_s=LIMIT_S + 5.0)
        late_s = (boot_ns() - run.start_ns) / 1e9 - LIMIT_S
        assert late_s < allowance_s(0.5, 1.5), late_s
        slowest_s = max(slowest_s, late_s)
    return slowest_s


def stop_in_time(worker: StressWorker) -> float:
    """Ask for a warm stop; returns how long it took."""
    begun_s = time.monotonic()
    worker.signal(signal.SIGTERM)
    code = worker.wait(SOFT_STOP_S + 20.0)
    took_s = time.monotonic() - begun_s
    assert took_s < SOFT_STOP_S + allowance_s(2.0, 3.0), took_s
    assert code == 0
    worker.gone(2.0)
    return took_s


def broker_hole(root: Path, hole_s: float) -> None:
    """Swallow everything between worker and broker for a while, then once more while it stops."""
    with redis_site(root) as site:
        worker = site.worker(concurrency=2, worker_soft_shutdown_timeout=SOFT_STOP_S, **LEASE).start()
        limited = begin_limited(site)
        waiting = [site.send("timed", 0.01) for _ in range(200)]
        site.proxy.set(Mode.BLACK_HOLE)
        begun_s = time.monotonic()
        with Pulse(worker) as pulse:
            late_s = limits_hold(site, limited)
            unready_s = eventually(
                lambda: pulse.unready and time.monotonic() - begun_s, deadline_s=2 * LEASE["worker_lease"]
            )
            eventually(lambda: time.monotonic() - begun_s > hole_s, deadline_s=hole_s + 5.0)
        lines = len(worker.log.splitlines())
        site.proxy.set(Mode.PASS)
        back_s = site.consumes(BACK_S + 5.0)
        eventually(lambda: worker.ask("health")["ready"], deadline_s=BACK_S)
        site.finished(30.0, waiting)
        for task_id in limited:
            assert isinstance(site.result(task_id), TimeLimitExceeded)
        held = site.send("timed", 60.0)
        site.started(held)
        site.proxy.set(Mode.BLACK_HOLE)
        stop_s = stop_in_time(worker)
        print(
            f"hole of {hole_s} s: limits {late_s:.2f} s late, slowest of {pulse.answers} answers "
            f"{pulse.slowest_s:.3f} s, not ready after {unready_s:.1f} s, consuming {back_s:.2f} s after, "
            f"stop {stop_s:.2f} s, {lines} lines logged, swallowed {site.proxy.hits['black hole']}"
        )
        assert pulse.slowest_s < ANSWER_S
        assert back_s < BACK_S
        assert lines < 60 + 10 * hole_s
        assert site.proxy.hits[Mode.BLACK_HOLE.value] > 0
        # Nobody else has it, and nobody lost it: the lease runs out, and another worker runs it.
        site.proxy.set(Mode.PASS)
        other = site.worker(concurrency=1, **LEASE).start()
        eventually(lambda: len(site.starts(held)) == 2, deadline_s=LEASE["worker_lease"] + 10.0)
        other.close()


@pytest.mark.timeout(120)
def test_limits_answers_and_the_stop_hold_while_the_broker_is_a_black_hole(tmp_path: Path) -> None:
    broker_hole(tmp_path, HOLE_S)


def store_hole(root: Path, hole_s: float) -> None:
    """The same for a result store that is another server than the broker's."""
    with redis_site(root) as site, tcp_proxy(site.server.port) as store:
        # Another address is another server, as far as a worker can know.
        url = f"redis://localhost:{store.port}/0"
        worker = site.worker(
            concurrency=2, result_backend=url, worker_soft_shutdown_timeout=SOFT_STOP_S, **LEASE
        ).start()
        limited = begin_limited(site)
        waiting = [site.send("timed" if n % 2 else "work", 0.001) for n in range(200)]
        store.set(Mode.BLACK_HOLE)
        begun_s = time.monotonic()
        with Pulse(worker) as pulse:
            late_s = limits_hold(site, limited)
            eventually(lambda: time.monotonic() - begun_s > hole_s, deadline_s=hole_s + 5.0)
        store.set(Mode.PASS)
        site.finished(30.0, waiting)
        back_s = time.monotonic() - begun_s - hole_s
        for task_id in limited:
            assert isinstance(site.result(task_id), TimeLimitExceeded)
        assert all(site.result(task_id) == "done" for number, task_id in enumerate(waiting) if number % 2)
        last = site.send("timed", 60.0)
        site.started(last)
        store.set(Mode.BLACK_HOLE)
        stop_s = stop_in_time(worker)
        print(
            f"hole of {hole_s} s: limits {late_s:.2f} s late, slowest of {pulse.answers} answers "
            f"{pulse.slowest_s:.3f} s, all done {back_s:.2f} s after, stop {stop_s:.2f} s, "
            f"swallowed {store.hits['black hole']}"
        )
        assert pulse.slowest_s < ANSWER_S
        assert store.hits[Mode.BLACK_HOLE.value] > 0
        # What was interrupted is back in the broker, which was there all the time.
        assert site.depth().ready == 1


@pytest.mark.timeout(120)
def test_limits_answers_and_the_stop_hold_while_the_result_store_is_a_black_hole(tmp_path: Path) -> None:
    store_hole(tmp_path, HOLE_S)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_half_a_minute_without_a_broker(tmp_path: Path) -> None:
    broker_hole(tmp_path, 30.0)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_half_a_minute_without_a_result_store(tmp_path: Path) -> None:
    store_hole(tmp_path, 30.0)
