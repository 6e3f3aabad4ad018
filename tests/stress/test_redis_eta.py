"""Delayed messages through a reconnect and the death of a worker: never early, hardly late (I18)."""

from __future__ import annotations

import random
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from support.calibration import allowance_s
from support.ledger import Kill, boot_ns, check
from support.redis_stress import redis_site
from support.tcp_proxy import Mode
from support.waiting import eventually

LEASE = {"worker_lease": 2.0, "worker_lease_renew_interval": 0.5}
LEAD_S = 2.0
LATE_S = 1.0


def delayed_through_faults(root: Path, dice: random.Random, messages: int, span_s: float) -> None:
    """Delayed messages over a time, with a reset of all connections and a killed worker in its middle."""
    with redis_site(root) as site:
        workers = [site.worker(concurrency=2, loglevel="WARNING", **LEASE).start() for _ in range(2)]
        offset_ns = time.time_ns() - boot_ns()
        first_wall_s = time.time() + LEAD_S
        due: dict[str, float] = {}
        with site.app.bulk():
            for number in range(messages):
                due_wall_s = first_wall_s + dice.uniform(0.0, span_s)
                how = (
                    {"eta": datetime.fromtimestamp(due_wall_s, timezone.utc)}
                    if number % 2
                    else {"countdown": due_wall_s - time.time()}
                )
                before_wall_s = time.time()
                task_id = site.send("work", 0.0, **how)
                # A countdown counts from the call: its own moment, not the one that was thought of before.
                due[task_id] = due_wall_s if number % 2 else before_wall_s + how["countdown"]
        eventually(lambda: time.time() > first_wall_s + span_s / 3, deadline_s=LEAD_S + span_s)
        site.proxy.set(Mode.RESET)
        site.proxy.set(Mode.PASS)
        resets = site.proxy.hits[Mode.RESET.value]
        eventually(lambda: time.time() > first_wall_s + span_s / 2, deadline_s=LEAD_S + span_s)
        victim = workers[0]
        children = victim.children()
        killed_ns = boot_ns()
        assert victim.process is not None
        victim.process.kill()
        victim.process.wait()
        site.kills += [Kill(pid, killed_ns) for pid in children]
        left = len(set(due) - site.ledger.read().finished)
        site.finished(span_s + 30.0)
        runs = site.ledger.executions()
        found = check(site.accepted, runs, site.kills, per_kill=None)
        delays_s = sorted((run.start_ns + offset_ns) / 1e9 - due[run.task_id] for run in runs)
        late = [delay_s for delay_s in delays_s if delay_s > LATE_S + allowance_s(0.0, 0.5)]
        print(
            f"{found}; start minus due: {delays_s[0]:.4f} to {delays_s[-1]:.3f} s, "
            f"median {delays_s[len(delays_s) // 2]:.4f} s, {len(late)} late; "
            f"{resets} connections reset, worker killed with {left} to come"
        )
        assert found.clean, found
        # The clocks of this test are read one after the other.
        assert delays_s[0] > -0.001
        # What the killed worker held waits for its lease; nothing else waits.
        assert len(late) <= 2
        assert delays_s[-1] < LEASE["worker_lease"] + 4.0
        assert resets >= 4
        assert 0 < left < messages
        assert workers[1].stop() == 0


@pytest.mark.timeout(120)
def test_delayed_messages_keep_their_time_through_a_reconnect_and_a_kill(
    tmp_path: Path, dice: random.Random
) -> None:
    delayed_through_faults(tmp_path, dice, 1000, 6.0)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_delayed_messages_keep_their_time_at_full_size(tmp_path: Path, dice: random.Random) -> None:
    delayed_through_faults(tmp_path, dice, 2000, 20.0)
