"""Signals and shutdown with real processes: every stage, every bound, nothing left alive."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from prefork.engine.supervisor.ending import SHIELD_S
from support.supervised import Supervised, eventually

Supervise = Callable[..., Supervised]

TERM, INT, QUIT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP


def test_a_warm_stop_finishes_what_runs_and_takes_nothing_new(worker: Supervised) -> None:
    worker.start()
    running = worker.job({"do": "until", "path": "go"})
    worker.event("start", job=running)
    worker.signal(TERM)
    eventually(lambda: worker.ask("stats")["stage"] == "warm")
    later = worker.job({"do": "sleep"})
    worker.set("go")
    assert worker.wait() == 0
    assert worker.state(running) == "done"
    assert worker.state(later) == "job"
    assert worker.events("agent stopped")
    worker.gone()


def test_term_gives_running_tasks_back_before_the_exit_when_its_time_is_over(supervise: Supervise) -> None:
    worker = supervise(concurrency=2, soft_shutdown_s=0.4).start()
    jobs = [worker.job({"do": do, "s": 60}) for do in ("sleep", "stuck with gil")]
    for job in jobs:
        worker.event("start", job=job)
    begun_s = time.monotonic()
    worker.signal(TERM)
    assert worker.wait() == 0
    assert 0.4 <= time.monotonic() - begun_s < 2.4
    assert [worker.state(job) for job in jobs] == ["gave-back", "gave-back"]
    assert {(event["verdict"], event["charge"]) for event in worker.events("dead")} == {("shutdown", False)}
    worker.gone()


def test_a_soft_stop_lets_a_task_finish_what_it_shields(supervise: Supervise) -> None:
    worker = supervise(concurrency=2, soft_shutdown_s=0.3).start()
    shielded, other = worker.job({"do": "shielded", "path": "go"}), worker.job({"do": "sleep", "s": 60})
    worker.event("shielded")
    worker.event("start", job=other)
    worker.signal(TERM)
    eventually(lambda: worker.state(other) == "gave-back")
    assert worker.state(shielded).startswith("taken")
    worker.set("go")
    assert worker.wait() == 0
    assert worker.events("shield ended")
    assert worker.state(shielded) == "gave-back"
    worker.gone()


@pytest.mark.parametrize("script", [[TERM, TERM], [QUIT]])
def test_whoever_asks_again_does_not_wait_for_a_shield(supervise: Supervise, script: list[int]) -> None:
    worker = supervise(concurrency=1, soft_shutdown_s=0.2).start()
    job = worker.job({"do": "shielded", "s": 60})
    worker.event("shielded")
    worker.signal(script[0])
    if script[1:]:
        eventually(lambda: worker.ask("stats")["stage"] == "cold")
        worker.signal(script[1])
    begun_s = time.monotonic()
    assert worker.wait() == 0
    assert time.monotonic() - begun_s < 2.0
    assert worker.state(job) == "gave-back"
    worker.gone()


def test_a_shield_holds_a_soft_stop_up_for_seconds_and_no_longer(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, soft_shutdown_s=0.2).start()
    job = worker.job({"do": "shielded", "s": 60})
    worker.event("shielded")
    asking_s = time.monotonic()
    worker.signal(TERM)
    asked_s = time.monotonic()
    assert worker.wait(12.0) == 0
    ended_s = time.monotonic()
    assert SHIELD_S < ended_s - asking_s
    assert ended_s - asked_s < SHIELD_S + 2.0
    assert worker.state(job) == "gave-back"
    worker.gone()


def test_int_waits_without_a_bound_and_the_second_one_sets_it(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, soft_shutdown_s=0.3).start()
    worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    worker.signal(INT)
    eventually(lambda: worker.ask("stats")["stage"] == "warm")
    assert "will be stopped" not in worker.log
    worker.signal(INT)
    assert worker.wait() == 0
    assert "will be stopped" in worker.log
    worker.gone()


@pytest.mark.parametrize("script", [[QUIT], [TERM, TERM], [INT, TERM, TERM], [TERM, QUIT], [INT, INT, INT]])
def test_it_goes_cold_when_asked_often_enough(worker: Supervised, script: list[int]) -> None:
    worker.start()
    job = worker.job({"do": "ignore", "s": 60})
    worker.event("start", job=job)
    for number, stage in zip(script, ["warm"] * (len(script) - 1) + [""], strict=True):
        worker.signal(number)
        if stage:
            eventually(lambda: worker.ask("stats")["stage"] == "warm")
            time.sleep(0.02)  # two signals of one kind that are pending together are one
    assert worker.wait(5.0) == 0
    assert worker.state(job) == "gave-back"
    worker.gone()


def test_sigterm_can_be_remapped(worker: Supervised) -> None:
    worker.start(REMAP_SIGTERM="SIGQUIT")
    worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    worker.signal(TERM)
    assert worker.wait(3.0) == 0


def test_the_agent_is_told_of_each_stage_of_the_stop(worker: Supervised) -> None:
    worker.start()
    worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    worker.signal(signal.SIGINT)
    warm = worker.event("stopping")
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 0
    cold = worker.events("stopping")[-1]
    assert [(told["sig"], told["how"], told["exitcode"]) for told in (warm, cold)] == [
        ("SIGINT", "Warm", 0),
        ("SIGQUIT", "Cold", 0),
    ]
    assert len(worker.events("stopping")) == 2


def test_a_stop_through_the_control_socket_has_no_signal(worker: Supervised) -> None:
    worker.start()
    worker.ask("stop", graceful_s=2.0)
    assert worker.wait() == 0
    assert [(told["sig"], told["how"]) for told in worker.events("stopping")] == [(None, "Warm")]


def test_term_while_the_application_is_imported_stops_at_once(worker: Supervised) -> None:
    worker.set("template-hangs")
    worker.start(ready=False)
    worker.event("template")
    worker.signal(TERM)
    assert worker.wait(3.0) == 0
    worker.gone()


def test_term_while_children_boot_stops_at_once(worker: Supervised) -> None:
    worker.set("child-hangs")
    worker.start(ready=False)
    eventually(lambda: len(worker.processes()) >= 5)
    worker.signal(INT)
    assert worker.wait(5.0) == 0
    worker.gone()


def test_a_dead_agent_does_not_keep_the_worker(worker: Supervised) -> None:
    worker.start()
    worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    worker.set("agent-ignores")
    worker.signal(QUIT)
    assert worker.wait(8.0) == 0
    worker.gone()


def test_a_stopped_agent_does_not_keep_the_worker(worker: Supervised) -> None:
    worker.start()
    os.kill(worker.ask("stats")["agent"]["pid"], signal.SIGSTOP)
    worker.signal(TERM)
    assert worker.wait(9.0) == 0
    worker.gone()


def test_the_supervisor_killed_leaves_nothing_after_a_second(worker: Supervised) -> None:
    worker.start()
    worker.ask("scale", n=3)
    eventually(worker.complete)
    for do in ("grandchild", "daemon", "stuck with gil"):
        worker.event("start", job=worker.job({"do": do, "s": 60}))
    eventually(lambda: len(worker.programs("sleep")) == 3)
    worker.signal(signal.SIGKILL)
    worker.wait()
    worker.gone()


@pytest.mark.parametrize("delay_ms", [0, 5, 20, 40, 60, 80, 100, 130, 160, 200])
def test_the_supervisor_killed_at_any_moment_of_its_start_leaves_nothing(
    worker: Supervised, delay_ms: int
) -> None:
    worker.start(ready=False)
    if delay_ms:
        eventually(lambda: worker.log, within_s=5.0) if delay_ms > 100 else worker.event("template")
    time.sleep(delay_ms / 1000)  # the moment itself is what is varied
    worker.signal(signal.SIGKILL)
    worker.wait()
    worker.gone()


def test_hup_replaces_every_process_and_loses_nothing(worker: Supervised) -> None:
    worker.start()
    before = worker.ask("stats")
    long = worker.job({"do": "sleep", "s": 0.8})
    start = worker.event("start", job=long)
    worker.signal(HUP)
    eventually(lambda: len(worker.events("template")) == 2)
    old = {child["pid"] for child in before["children"]}
    eventually(lambda: not old & {c["pid"] for c in worker.ask("stats")["children"]})
    after = worker.ask("stats")
    assert after["templates"][0]["pid"] != before["templates"][0]["pid"]
    assert after["agent"]["pid"] != before["agent"]["pid"]
    assert len(after["children"]) == 2
    assert worker.event("end", job=long)["pid"] == start["pid"]
    assert {event["verdict"] for event in worker.events("dead")} == {"exit"}
    worker.event("end", job=worker.job({"do": "sleep"}))


def test_hup_takes_over_the_new_configuration(worker: Supervised) -> None:
    worker.start()
    worker.set("options", '{"concurrency": 3}')
    worker.signal(HUP)
    eventually(lambda: worker.ask("stats")["target"] == 3 and len(worker.ask("stats")["children"]) == 3)


def test_hup_with_an_application_that_cannot_be_loaded_keeps_the_old_one(worker: Supervised) -> None:
    worker.start()
    before = {child["pid"] for child in worker.ask("stats")["children"]}
    worker.set("template-fails")
    worker.signal(HUP)
    eventually(lambda: "what is running stays as it is" in worker.log)
    eventually(lambda: len(worker.ask("stats")["templates"]) == 1)
    assert {child["pid"] for child in worker.ask("stats")["children"]} == before
    worker.event("end", job=worker.job({"do": "sleep"}))


def test_an_agent_that_is_replaced_before_its_fork_is_reported_leaves_without_a_word(
    worker: Supervised,
) -> None:
    # Given an agent that the supervisor does not know of yet
    worker.set("agent-late")
    worker.start(ready=False)
    early = worker.event("agent")["pid"]
    # When its place is taken, and it says that it is ready to nobody
    worker.signal(HUP)
    eventually(lambda: "reloaded: agent and children are replaced" in worker.log)
    worker.unset("agent-late")
    # Then it leaves
    eventually(lambda: early not in worker.processes())
    worker.event("end", job=worker.job({"do": "sleep"}))
    assert worker.ask("stats")["agent"]["pid"] != early
    assert "Traceback" not in worker.log


def test_hup_during_an_import_that_fails_is_not_forgotten(worker: Supervised) -> None:
    worker.start()
    # Given a reload whose import hangs, and one that was asked for meanwhile
    worker.set("template-hangs")
    worker.signal(HUP)
    worker.event("template hangs")
    worker.signal(HUP)
    worker.unset("template-hangs")
    worker.ask("health")  # a turn of the loop has passed
    # When the first one dies
    booting = next(t["pid"] for t in worker.ask("stats")["templates"] if t["phase"] == "booting")
    os.kill(booting, signal.SIGKILL)
    # Then the second one takes place
    eventually(lambda: "reloaded: agent and children are replaced" in worker.log)
    assert worker.log.count("the template died while it loaded the application; what runs stays") == 1


def test_a_stop_that_signals_the_children_too_charges_no_message(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "sleep", "s": 60})
    child = worker.event("start", job=job)["pid"]
    worker.signal(signal.SIGTERM)
    os.kill(child, signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.event("dead", verdict="shutdown")["charge"] is False
    assert worker.state(job) == "gave-back"


def test_usr1_brings_the_stacks_of_all_processes_to_the_log(worker: Supervised) -> None:
    worker.start()
    worker.event("start", job=worker.job({"do": "sleep", "s": 60}))
    worker.signal(signal.SIGUSR1)
    eventually(lambda: "stack of the supervisor" in worker.log)
    # template, agent and two children write theirs by themselves.
    eventually(lambda: worker.log.count("most recent call first") == 4)
    # One after the other, so that none writes into another's lines. (The child says "start" just
    # before it calls the body, so that may not be on its stack yet.)
    eventually(lambda: "in _run_step" in worker.log)
    assert worker.ask("health")["ready"]


@pytest.mark.parametrize("seed", range(6))
def test_any_script_of_signals_ends_in_time_without_a_traceback(worker: Supervised, seed: int) -> None:
    dice = random.Random(seed)
    worker.start(ready=dice.random() < 0.5)
    if not worker.log:
        worker.event("template")
    for _ in range(3):
        worker.job({"do": "sleep", "s": dice.random()})
    for _ in range(dice.randrange(1, 12)):
        worker.signal(dice.choice([TERM, INT, HUP, signal.SIGUSR2, signal.SIGCHLD]))
        time.sleep(dice.choice([0, 0, 0.001, 0.03]))  # the script itself is what is varied
    worker.signal(QUIT)
    worker.wait(8.0)
    assert "Traceback" not in worker.log
    worker.gone()


def test_the_agent_is_told_of_everybody_before_it_is_told_to_leave(worker: Supervised) -> None:
    worker.start()
    jobs = [worker.job({"do": "sleep", "s": 60}) for _ in range(2)]
    for job in jobs:
        worker.event("start", job=job)
    worker.signal(QUIT)
    assert worker.wait() == 0
    last = worker.events()[-1]
    assert last["what"] == "agent stopped"
    assert [worker.state(job) for job in jobs] == ["gave-back", "gave-back"]
