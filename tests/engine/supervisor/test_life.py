"""The supervisor with fake processes: start, replacement, retirement, death of every kind of process."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable

import pytest

from support.calibration import Waits
from support.supervised import Supervised, eventually

Supervise = Callable[..., Supervised]


def children(worker: Supervised) -> dict[int, int]:
    """Slot -> pid of the children that are ready."""
    return {c["slot"]: c["pid"] for c in worker.ask("stats")["children"] if c["phase"] == "ready"}


def test_it_starts_children_and_runs_what_there_is(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "sleep"})
    worker.event("end", job=job)
    assert len(set(eventually(lambda: len(children(worker)) == 2 and children(worker)).values())) == 2
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    worker.gone()


def test_a_child_inherits_nothing_but_what_it_needs(worker: Supervised) -> None:
    worker.start()
    kept = [
        "/memfd:prefork-locks (deleted)",  # whose bytes are locked while a rate bucket is written
        "anon_inode:[eventfd]",  # the doorbell of the supervisor
        "anon_inode:[eventfd]",  # the bell of the agent
        "anon_inode:[pidfd]",  # of the supervisor
    ]
    assert [event["fds"] for event in worker.events("child")] == [kept, kept]


def test_a_killed_child_is_replaced_within_a_second_and_its_job_comes_back(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "sleep", "s": 60})
    start = worker.event("start", job=job)
    before = len(worker.events("child"))
    waits, began_s = Waits(), time.monotonic()
    os.kill(start["pid"], signal.SIGKILL)
    dead = worker.event("dead")
    assert (dead["cause"], dead["verdict"], dead["charge"]) == ("signal 9", "crash", True)
    successor = eventually(lambda: worker.events("child")[before:])[0]
    assert successor["at"] - began_s < 1.0, waits.together_s
    eventually(lambda: worker.state(job) == "gave-back")
    assert f"child {start['slot']} died: signal 9; it ran sleep[{job}-0]" in worker.log


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        ({"do": "die", "signal": signal.SIGSEGV}, "signal 11 (SIGSEGV)"),
        ({"do": "die", "signal": signal.SIGABRT}, "signal 6 (SIGABRT)"),
        ({"do": "exit", "code": 3}, "exit code 3"),
        ({"do": "exit", "code": 0}, "exit code 0"),
    ],
)
def test_every_death_has_a_cause(worker: Supervised, step: dict[str, object], cause: str) -> None:
    worker.start()
    worker.job(step)
    dead = worker.event("dead")
    assert (dead["cause"], dead["verdict"]) == (cause, "crash")
    # faulthandler may have written the stack first; what counts is that another child runs on.
    worker.event("end", job=worker.job({"do": "sleep"}))
    assert worker.ask("stats")["causes"] == {cause: 1}


def test_the_death_of_one_child_does_not_touch_another(worker: Supervised) -> None:
    worker.start()
    long = worker.job({"do": "sleep", "s": 1.5})
    start = worker.event("start", job=long)
    for _ in range(5):
        doomed = worker.job({"do": "die", "signal": signal.SIGKILL})
        worker.event("start", job=doomed)
        eventually(lambda name=doomed: worker.state(name) == "gave-back")
    end = worker.event("end", job=long)
    assert end["pid"] == start["pid"]
    assert len(worker.events("start", job=long)) == 1


def test_a_hundred_deaths_leave_descriptors_and_slots_as_they_were(worker: Supervised) -> None:
    worker.start()
    waits = Waits()
    before = len(os.listdir(f"/proc/{worker.pid}/fd"))
    given = 0

    def a_hundred_died() -> bool:
        nonlocal given
        # A child that the machine lets stand still has the rest of its batch recalled, and lives on.
        while given - len(worker.events("recall")) < 100:
            given += 1
            # Between its deaths the worker gets on with its work: this is no crash loop.
            worker.job({"do": "sleep", "s": 0}, {"do": "sleep", "s": 0}, {"do": "exit", "code": 9})
        return len(worker.events("dead")) >= 100

    eventually(a_hundred_died, within_s=20.0, every_s=0.05)
    eventually(worker.complete)
    # Nobody died but those that were to: a child that has just been forked is no stranger.
    assert worker.ask("stats")["causes"] == {"exit code 9": len(worker.events("start", number=2))}
    eventually(lambda: worker.ask("stats")["unrecovered"] == 0)
    eventually(lambda: abs(len(os.listdir(f"/proc/{worker.pid}/fd")) - before) <= 2)
    assert worker.ask("stats")["turn_longest_s"] < 0.25, waits.so_far_s
    # Slots were as many as deaths that the agent had not heard of yet. Now all are free, the lowest first.
    for pid in children(worker).values():
        os.kill(pid, signal.SIGKILL)
        eventually(lambda gone=pid: gone not in children(worker).values() and worker.complete())
        eventually(lambda: worker.ask("stats")["unrecovered"] == 0)
    assert max(children(worker)) < 8


def test_a_child_that_has_done_its_number_leaves_only_when_its_successor_is_ready(
    supervise: Supervise,
) -> None:
    worker = supervise(concurrency=1, max_tasks=2).start()
    jobs = [worker.job({"do": "sleep"}) for _ in range(10)]
    for job in jobs:
        worker.event("end", job=job)
    eventually(lambda: len(worker.events("dead", verdict="exit")) >= 4)
    successors = [event["at"] for event in worker.events("child")[1:]]
    for leaving, ready_s in zip(worker.events("dead", verdict="exit"), successors, strict=False):
        assert leaving["at"] > ready_s
    assert len({event["pid"] for event in worker.events("end")}) == 5
    assert all(len(worker.events("start", job=job)) == 1 for job in jobs)
    assert worker.log.count("was replaced after 2 executions: it has done its number of tasks") >= 4


def test_a_template_that_forks_no_more_is_replaced(supervise: Supervise) -> None:
    # Given a template that stands still, as after a hook at fork that waits for ever
    worker = supervise(concurrency=1, boot_timeout_s=1.5).start()
    template = worker.ask("stats")["templates"][0]["pid"]
    os.kill(template, signal.SIGSTOP)
    # When a child is wanted
    os.kill(next(iter(children(worker).values())), signal.SIGKILL)
    # Then another template brings it
    worker.event("end", job=worker.job({"do": "sleep"}))
    assert worker.log.count("the template has forked nothing for 1.5 s; replaced") == 1
    assert worker.ask("stats")["templates"][0]["pid"] != template


def test_a_supervisor_with_few_descriptors_serves_with_fewer_children(supervise: Supervise) -> None:
    worker = supervise(concurrency=1).start()
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{worker.pid}/fd"))
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (highest + 4, before[1]))
    worker.ask("scale", n=12)
    eventually(lambda: "it cannot be watched (Too many open files)" in worker.log)
    worker.event("end", job=worker.job({"do": "sleep"}))
    worker.event("start", job=worker.job({"do": "die", "signal": 9}))
    worker.event("end", job=worker.job({"do": "sleep"}))
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
    eventually(lambda: len(children(worker)) == 12, within_s=20.0)


def test_a_child_over_its_memory_limit_is_replaced_after_its_task(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, max_memory_kib=1000).start()
    job = worker.job({"do": "sleep", "s": 0.6})
    start = worker.event("start", job=job)
    worker.set("memory", f"[{start['slot']}, 2000]")
    worker.event("end", job=job)
    worker.event("dead", verdict="exit", slot=start["slot"])
    eventually(lambda: [pid for pid in children(worker).values() if pid != start["pid"]])


def test_a_child_over_the_hard_memory_limit_begins_no_other_task(supervise: Supervise) -> None:
    # Given a child that a task has left with too much memory
    worker = supervise(concurrency=1, hard_memory_kib=1000).start()
    index, pid = next(iter(children(worker).items()))
    worker.set("memory", f"[{index}, 2000]")
    # When its memory is looked at between two tasks
    worker.event("dead", verdict="exit", slot=index)
    # Then it leaves without waiting for its successor, and the next task runs in that one
    worker.unset("memory")
    job = worker.job({"do": "sleep"})
    assert worker.event("start", job=job)["pid"] != pid
    assert "it uses 2000 KiB of private memory" in worker.log
    assert worker.events("dead", verdict="memory") == []


def test_scaling_up_and_down(worker: Supervised) -> None:
    worker.start()
    worker.ask("scale", n=4)
    eventually(lambda: len(children(worker)) == 4)
    busy = worker.event("start", job=worker.job({"do": "sleep", "s": 30}))
    worker.ask("scale", n=1)
    eventually(lambda: list(children(worker).values()) == [busy["pid"]])
    assert worker.ask("stats")["target"] == 1


def test_autoscale_says_what_it_does_and_why(supervise: Supervise) -> None:
    worker = supervise(autoscale=[2, 1])
    worker.start(AUTOSCALE_KEEPALIVE="0.2")
    for _ in range(3):
        worker.job({"do": "until", "path": "go"})
    eventually(lambda: "autoscale: grows from 1 to 2 children; " in worker.log)
    worker.set("go")
    eventually(lambda: "autoscale: shrinks from 2 to 1 children; 0 messages wait" in worker.log)


def test_autoscale_grows_with_what_waits_and_shrinks_when_idle(supervise: Supervise) -> None:
    worker = supervise(autoscale=[3, 1])
    worker.start(AUTOSCALE_KEEPALIVE="0.3")
    assert worker.ask("stats")["target"] == 1
    jobs = [worker.job({"do": "until", "path": "go"}) for _ in range(6)]
    eventually(lambda: worker.ask("stats")["target"] == 3)
    worker.set("go")
    for job in jobs:
        worker.event("end", job=job)
    eventually(lambda: len(children(worker)) == 1)


def test_children_load_the_application_themselves_when_the_template_cannot_be_forked(
    supervise: Supervise,
) -> None:
    worker = supervise(concurrency=2, fresh=True).start()
    start = worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    assert worker.ask("stats")["templates"] == []
    assert "told to" in worker.log
    os.kill(start["pid"], signal.SIGKILL)
    worker.event("dead", cause="signal 9")
    eventually(lambda: len(children(worker)) == 2)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    worker.gone()


def test_a_dead_template_is_replaced_and_nobody_notices(worker: Supervised) -> None:
    worker.start()
    long = worker.job({"do": "sleep", "s": 1.0})
    start = worker.event("start", job=long)
    for _ in range(2):
        before = worker.ask("stats")["templates"][0]["pid"]
        os.kill(before, signal.SIGKILL)
        eventually(
            lambda pid=before: [
                t for t in worker.ask("stats")["templates"] if t["pid"] != pid and t["phase"] == "ready"
            ]
        )
    assert worker.event("end", job=long)["pid"] == start["pid"]
    other = next(pid for pid in children(worker).values() if pid != start["pid"])
    os.kill(other, signal.SIGKILL)
    worker.event("dead", cause="signal 9")
    eventually(lambda: len([pid for pid in children(worker).values() if pid != other]) == 2)


def test_a_dead_agent_is_replaced_and_is_told_again_what_it_had_not_answered(worker: Supervised) -> None:
    worker.start()
    worker.set("agent-ignores")
    start = worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    os.kill(start["pid"], signal.SIGKILL)
    eventually(lambda: worker.ask("stats")["unrecovered"] == 1)
    eventually(lambda: len(children(worker)) == 2)
    assert start["slot"] not in children(worker)
    worker.unset("agent-ignores")
    os.kill(worker.ask("stats")["agent"]["pid"], signal.SIGKILL)
    assert worker.event("dead")["slot"] == start["slot"]
    eventually(lambda: worker.ask("stats")["unrecovered"] == 0)


def test_an_agent_that_stands_still_is_replaced_and_the_worker_is_not_ready_meanwhile(
    supervise: Supervise,
) -> None:
    worker = supervise(concurrency=1, lease_s=0.6).start()
    first = worker.ask("stats")["agent"]["pid"]
    worker.set("agent-stalls")
    reasons = eventually(lambda: worker.ask("health")["reasons"])
    assert any("lease" in reason or "agent" in reason for reason in reasons)
    worker.unset("agent-stalls")
    eventually(lambda: worker.ask("health")["ready"])
    assert worker.ask("stats")["agent"]["pid"] != first or worker.ask("stats")["agent"]["deaths"] == 0


def test_an_agent_that_talks_nonsense_is_replaced(worker: Supervised) -> None:
    worker.set("agent-babbles")
    worker.start()
    eventually(lambda: len(worker.events("agent")) == 2)
    assert worker.log.count("the agent is replaced: it said {'op': 'recovered', 'slot': None}") == 1
    worker.event("end", job=worker.job({"do": "sleep"}))


def test_without_a_lease_children_take_nothing(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, lease_s=0.4).start()
    worker.set("lease-fails")
    eventually(lambda: not worker.ask("health")["ready"])
    job = worker.job({"do": "sleep"})
    worker.event("agent")
    assert worker.state(job) == "job"
    worker.unset("lease-fails")
    worker.event("end", job=job)
    assert "children take no more messages" in worker.log


def test_a_zombie_that_a_task_left_is_reaped(worker: Supervised) -> None:
    worker.start()
    start = worker.event("start", job=worker.job({"do": "orphan", "s": 0.1}))
    assert start

    def zombies() -> list[str]:
        found = []
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] == b"Z" and int(fields[1]) == worker.pid:
                found.append(name)
        return found

    worker.event("orphan ends")
    eventually(lambda: not zombies())
