"""Time and memory limits, and recall, on real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from prefork.engine.supervisor.deadlines import RECALL_AFTER_NS
from support.calibration import Waits
from support.supervised import Supervised, eventually

Supervise = Callable[..., Supervised]
LIMIT_S = 0.4


@pytest.mark.parametrize(
    "do", ["sleep", "ignore", "mask", "stuck", "stuck with gil", "stop self", "grandchild", "daemon"]
)
def test_a_hard_limit_ends_the_process_group_whatever_the_task_does(worker: Supervised, do: str) -> None:
    worker.start()
    waits = Waits()
    job = worker.job({"do": do, "s": 60, "hard_s": LIMIT_S})
    start = worker.event("start", job=job)
    eventually(lambda: not _group(start["pid"]))
    elapsed_s = time.monotonic() - start["at"]
    assert LIMIT_S <= elapsed_s < LIMIT_S + 0.5, waits.together_s
    dead = worker.event("dead")
    assert dead["at"] - start["at"] < LIMIT_S + 0.5, waits.together_s
    assert (dead["cause"], dead["verdict"], dead["limit_s"]) == ("hard time limit 0.4 s", "timeout", LIMIT_S)
    eventually(lambda: not worker.programs("sleep"))
    worker.event("end", job=worker.job({"do": "sleep"}))


def _group(group: int) -> list[int]:
    members = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != b"Z":
            members.append(int(name))
    return members


def test_a_limit_that_comes_as_the_task_ends_never_hits_the_next_one(worker: Supervised) -> None:
    worker.start()
    limit_s = 0.03
    jobs = []
    for number in range(60):
        offset_s = (number % 11 - 5) * 0.001
        jobs.append(
            worker.job(
                {"do": "sleep", "s": limit_s + offset_s, "hard_s": limit_s}, {"do": "sleep", "s": 0.002}
            )
        )
    for job in jobs:
        eventually(lambda name=job: worker.state(name) in ("done", "gave-back"), within_s=20.0)
    for job in jobs:
        second = worker.events("start", job=job, number=1)
        # Once the limited one was over, its successor was left alone.
        assert len(worker.events("end", job=job, number=1)) == len(second)


def test_the_soft_limit_is_raised_in_that_execution_and_again_every_second(worker: Supervised) -> None:
    worker.start()
    start = worker.event("start", job=worker.job({"do": "swallow", "s": 5.0, "soft_s": 0.2, "times": 2}))
    end = worker.event("end", job=start["job"])
    assert 1.2 <= end["at"] - start["at"] < 2.0


def test_the_soft_limit_leaves_the_next_execution_alone(supervise: Supervise) -> None:
    worker = supervise(concurrency=1).start()
    jobs = [
        worker.job({"do": "sleep", "s": s, **limit})
        for s, limit in [(5.0, {"soft_s": 0.1}), (0.3, {}), (0.0, {})]
    ]
    for job in jobs:
        worker.event("end", job=job)
    assert [worker.events("end", job=job)[0]["outcome"] for job in jobs] == ["soft", "done", "done"]


def test_a_running_task_over_the_hard_memory_limit_is_killed_with_the_figures(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, hard_memory_kib=512 * 1024).start()
    start = worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    worker.set("memory", f"[{start['slot']}, {640 * 1024}]")
    dead = worker.event("dead")
    assert (dead["cause"], dead["verdict"]) == ("memory limit 512 MiB: was 640 MiB", "memory")


def test_what_is_not_started_is_recalled_while_a_task_holds_the_gil(worker: Supervised) -> None:
    worker.start()
    waits = Waits()
    job = worker.job(
        {"do": "sleep"}, {"do": "stuck with gil", "hard_s": 1.0}, {"do": "sleep"}, {"do": "sleep"}
    )
    start = worker.event("start", job=job, number=1)
    recall = worker.event("recall")
    assert recall["at"] - start["at"] < 0.1, waits.together_s
    assert (recall["slot"], recall["index"], recall["outcomes"]) == (start["slot"], 2, [f"{job}-0"])
    worker.event("dead", verdict="timeout")
    assert worker.events("start", job=job, number=2) == []
    assert len(worker.events("recall")) == 1


def test_a_recalled_task_goes_on_and_the_rest_of_its_batch_does_not_run(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "until", "path": "go"}, {"do": "sleep"})
    worker.event("recall")
    worker.set("go")
    worker.event("end", job=job, number=0)
    eventually(lambda: worker.state(job) == "done")
    assert worker.events("start", job=job, number=1) == []


def test_short_tasks_are_not_recalled(worker: Supervised) -> None:
    worker.start()
    sent_at = time.monotonic()
    job = worker.job(*[{"do": "sleep", "s": 0.005}] * 30)
    eventually(lambda: worker.events("end", job=job, number=29) or worker.events("recall"))
    for recall in worker.events("recall"):
        # Right only where the machine held that very task up. It began after the end of the one before.
        running = recall["index"] - 1
        before = worker.event("end", job=job, number=running - 1)["at"] if running else sent_at
        assert recall["at"] - before >= RECALL_AFTER_NS / 1e9


def test_limits_hold_while_the_agent_is_silent(worker: Supervised) -> None:
    worker.start()
    silent = worker.ask("stats")["agent"]["pid"]
    os.kill(silent, signal.SIGSTOP)
    waits = Waits()
    start = worker.event("start", job=worker.job({"do": "ignore", "s": 60, "hard_s": LIMIT_S}))
    eventually(lambda: not _group(start["pid"]))
    assert time.monotonic() - start["at"] < LIMIT_S + 0.5, waits.together_s
    assert worker.ask("stats")["agent"]["pid"] == silent, "it has been replaced by one that is not silent"


def test_a_daemon_of_one_child_is_left_alone_when_another_child_is_killed(worker: Supervised) -> None:
    worker.start()
    keeper = worker.event("start", job=worker.job({"do": "daemon", "s": 60}))
    [daemon] = eventually(lambda: worker.programs("sleep"))
    worker.job({"do": "grandchild", "s": 60, "hard_s": 0.3})
    worker.event("dead", verdict="timeout")
    eventually(lambda: worker.programs("sleep") == [daemon])
    os.kill(keeper["pid"], signal.SIGKILL)
    eventually(lambda: not worker.programs("sleep"))
