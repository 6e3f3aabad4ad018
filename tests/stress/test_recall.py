"""A task that turns out long while its child holds other messages harms none of them (design §4)."""

from __future__ import annotations

from prefork.engine.exceptions import TimeLimitExceeded
from prefork.transports.base import Outgoing
from support.calibration import allowance_s
from support.ledger import boot_ns
from support.stress_worker import QUEUE, Site
from support.waiting import eventually

ROUNDS = 5
LIMIT_S = 1.5
REST = 10


def batch(site: Site) -> list[str]:
    """Send in one call: a short task, one that gets stuck with the GIL, and short ones again."""
    with site.app.client.collecting() as messages:
        ids = [site.send("mixed")]
        ids.append(site.send("mixed", "stuck with gil", time_limit=LIMIT_S))
        ids += [site.send("mixed") for _ in range(REST)]
    outgoing: list[Outgoing] = messages
    assert {message.queue for message in outgoing} == {QUEUE}
    site.app.client.transport.send(outgoing)
    return ids


def test_a_stuck_task_delays_no_result_and_no_message_that_its_child_holds(site: Site) -> None:
    worker = site.worker(concurrency=2).start()
    held = 0
    for _ in range(ROUNDS):
        # Each child has to know by itself that this kind is short.
        eventually(lambda: len(worker.children()) == 2)
        warm = [site.send("mixed") for _ in range(200)]
        site.finished(20.0, warm)
        first, stuck, *rest = batch(site)
        run = site.started(stuck)
        result = site.app.AsyncResult(first)
        assert eventually(result.successful, deadline_s=10.0, every_s=0.002)
        readable_s = (boot_ns() - run.start_ns) / 1e9
        site.ledger.read()
        eventually(lambda ids=rest: set(ids) <= site.ledger.read().finished, deadline_s=LIMIT_S)
        done_s = (boot_ns() - run.start_ns) / 1e9
        assert done_s < LIMIT_S
        by_id = {r.task_id: r for r in site.ledger.executions()}
        together = by_id[first].pid == run.pid
        held += together
        print(
            f"same child {together}, first result {readable_s:.3f} s, the rest {done_s:.3f} s after the start"
        )
        if together:
            assert readable_s < allowance_s(0.1, 0.4)
        assert all(
            by_id[task_id].pid != run.pid for task_id in rest if by_id[task_id].start_ns > run.start_ns
        )
        assert isinstance(site.result(stuck), TimeLimitExceeded)
        site.finished(10.0, [first, *rest])
    runs = site.ledger.executions()
    assert len(runs) == len(site.accepted)  # nothing ran twice, the hard kills notwithstanding
    assert held >= 1
    assert site.dead() == []
    assert worker.stop() == 0
