"""What the agent does for children that died or are stuck, against the memory broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine.child.plan import RunPlan
from prefork.engine.child.readahead import Kind
from prefork.engine.obituary import error_of, read_note
from prefork.engine.result_document import decode
from prefork.engine.scoreboard import (
    A_MOVED,
    C_CURSOR,
    C_OUTCOME_BYTES,
    C_POLICY,
    C_RUNNING,
    OUTCOME_BYTES,
    Policy,
    padded_tag,
)
from prefork.transports.base import Outgoing, Recovery
from prefork.transports.errors import BrokerUnavailable, ResultStoreUnavailable
from support.agent_scene import CAUSE, Scene
from support.apps import memory_app
from support.gated_slot import GatedSlot
from support.one_child import WORKER, unlink

VERDICTS = ("crash", "exit", "boot", "timeout", "memory", "shutdown")


@pytest.fixture
def scene() -> Iterator[Scene]:
    with memory_app() as app:
        made = Scene(app)
        yield made
        unlink(made.link)


# --- death -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_late_acknowledged_message_of_a_dead_child_runs_again(scene: Scene, verdict: str) -> None:
    scene.run(scene.hold(1)[0])
    answer = scene.dead(verdict)
    if verdict == "timeout":  # acks_on_timeout: it had its time
        assert (scene.depth(), scene.state()) == ((0, 0), "FAILURE")
        return
    assert (answer["op"], answer["returned"], answer["dead"]) == ("recovered", 1, 0)
    assert scene.depth() == (1, 0)
    assert scene.state() is None
    assert scene.crashes() == [0 if verdict == "shutdown" else 1]


@pytest.mark.parametrize(("verdict", "charged"), [("crash", 1), ("memory", 1), ("shutdown", None)])
def test_of_several_that_ran_beside_each_other_the_one_is_charged_whose_code_ran_last(
    scene: Scene, verdict: str, charged: int | None
) -> None:
    deliveries = scene.hold(3)
    scene.run(deliveries[0])
    scene.slot.words[C_POLICY] |= Policy.BESIDE
    scene.slot.write_last(padded_tag(deliveries[1].tag))
    assert scene.dead(verdict)["returned"] == 3
    records = {one.document: one.crashes for one in scene.transport.peek("celery")}
    assert [records[one.document] for one in deliveries] == [int(n == charged) for n in range(3)]


def test_of_several_the_one_is_ended_by_its_hard_limit_that_the_slot_shows(scene: Scene) -> None:
    deliveries = scene.hold(3)
    scene.run(deliveries[0])
    scene.slot.words[C_POLICY] |= Policy.BESIDE
    scene.slot.write_last(padded_tag(deliveries[1].tag))
    assert scene.dead("timeout")["returned"] == 2
    assert (scene.state(), scene.crashes()) == ("FAILURE", [0, 0])


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_early_acknowledged_message_of_a_dead_child_fails(scene: Scene, verdict: str) -> None:
    scene.run(scene.hold(1)[0], acks_late=False)
    scene.dead(verdict)
    assert scene.depth() == (0, 0)
    assert scene.state() == "FAILURE"


@pytest.mark.parametrize(
    ("verdict", "name", "detail"),
    [("timeout", "TimeLimitExceeded", "2.0"), ("crash", "WorkerLostError", CAUSE)],
)
def test_the_failure_says_what_happened(scene: Scene, verdict: str, name: str, detail: str) -> None:
    scene.run(scene.hold(1)[0], acks_late=False)
    scene.dead(verdict)
    document = scene.app.client.results.get(["id-0"])[0]
    assert document is not None
    failure = decode(document, scene.app.client.table.by_name("json")).result
    assert failure["exc_type"] == name
    assert detail in str(failure["exc_message"])


def test_a_child_that_died_before_its_early_acknowledgement_has_not_begun(scene: Scene) -> None:
    delivery = scene.hold(1)[0]
    scene.run(delivery, acks_late=True)
    scene.work.acks_late = False
    scene.slot.words[C_POLICY] = RunPlan(scene.work, scene.loaded.config, Kind()).policy_bits
    scene.dead()
    assert (scene.depth(), scene.state()) == ((1, 0), None)


@pytest.mark.parametrize("verdict", ["crash", "memory"])
def test_a_task_may_ask_to_fail_when_its_process_is_lost(scene: Scene, verdict: str) -> None:
    scene.run(scene.hold(1)[0], reject_on_worker_lost=False)
    scene.dead(verdict)
    assert (scene.depth(), scene.state()) == ((0, 0), "FAILURE")


def test_a_task_may_ask_to_run_again_after_a_hard_limit(scene: Scene) -> None:
    scene.run(scene.hold(1)[0], acks_on_timeout=False)
    scene.dead("timeout")
    assert (scene.depth(), scene.state(), scene.crashes()) == ((1, 0), None, [0])


@pytest.mark.parametrize(("store_errors", "state"), [(False, None), (True, "FAILURE")])
def test_a_result_that_is_ignored_is_not_stored_unless_errors_are(
    scene: Scene, store_errors: bool, state: str | None
) -> None:
    from_now = {"ignore_result": True, "store_errors_even_if_ignored": store_errors}
    delivery = scene.hold(1)[0]
    scene.run(delivery, acks_late=False, **from_now)
    scene.dead()
    assert scene.state() == state


def test_a_death_that_nobody_is_to_blame_for_is_not_charged(scene: Scene) -> None:
    scene.run(scene.hold(1)[0])
    scene.dead("crash", charge=False)
    assert scene.crashes() == [0]


def test_a_child_that_died_while_it_decoded_is_charged_to_what_it_decoded(scene: Scene) -> None:
    scene.hold(3)
    scene.slot.words[C_CURSOR] = 2
    scene.dead("crash")
    assert scene.crashes() == [0, 1, 0]


@pytest.mark.parametrize("verdict", ["exit", "shutdown", "memory"])
def test_a_child_that_was_ended_between_two_tasks_is_charged_to_nothing(scene: Scene, verdict: str) -> None:
    scene.hold(2)
    scene.slot.words[C_CURSOR] = 1
    scene.dead(verdict)
    assert scene.crashes() == [0, 0]


def test_what_a_dead_child_had_finished_is_settled_and_does_not_run_again(scene: Scene) -> None:
    first, second, _ = scene.hold(3)
    assert scene.slot.append_outcome(scene.finished(first, follow_up=True))
    scene.run(second, 1)
    answer = scene.dead("timeout")
    assert (scene.state("id-0"), scene.state("id-1"), scene.state("id-2")) == ("SUCCESS", "FAILURE", None)
    assert answer["returned"] == 1
    assert scene.depth("after") == (1, 0)


def test_a_death_that_is_reported_twice_counts_once(scene: Scene) -> None:
    scene.run(scene.hold(2)[0])
    assert scene.dead()["returned"] == 2
    assert scene.dead() == {"op": "recovered", "slot": 0, "generation": 1, "returned": 0, "dead": 0}
    assert scene.crashes() == [1, 0]


@pytest.mark.parametrize("damage", [b"\xff" * 40, b"", b"\x93"])
def test_a_damaged_outcome_area_loses_nothing(
    scene: Scene, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = scene.hold(3)
    assert scene.slot.append_outcome(scene.finished(first))
    assert scene.slot.append_outcome(damage)
    assert scene.slot.append_outcome(scene.finished(second))
    scene.dead("shutdown")
    assert scene.depth() == (2, 0), "what could be read is settled, the rest runs again"
    assert "damaged" in caplog.text


@pytest.mark.parametrize("report", ["Traceback\nLookupError: no database", "\x93"])
def test_what_a_child_said_of_its_failed_boot_is_not_taken_for_outcomes(
    scene: Scene, report: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene.slot.write_report(report)
    assert scene.dead("boot")["returned"] == 0
    assert "damaged" not in caplog.text
    assert scene.slot.read_report() == report


def test_a_nonsensical_length_of_the_outcome_area_is_survived(scene: Scene) -> None:
    scene.hold(1)
    scene.slot.words[C_OUTCOME_BYTES] = OUTCOME_BYTES * 1000
    scene.dead("shutdown")
    assert scene.depth() == (1, 0)


def test_a_slot_that_is_somebody_elses_by_now_is_not_looked_at(scene: Scene) -> None:
    scene.run(scene.hold(2)[0])
    scene.slot.clear(2)
    scene.slot.words[C_RUNNING] = 1
    answer = scene.dead()
    assert (answer["generation"], answer["returned"]) == (1, 2)
    assert scene.crashes() == [0, 0]


def test_a_message_that_kills_every_process_becomes_a_dead_letter_and_a_failure(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.work.delay(1)
    for generation in (1, 2, 3):
        consumer = scene.app.client.transport.consumer(["celery"], f"{WORKER}.0.{generation}", WORKER)
        delivery = consumer.reserve(1)[0]
        scene.slot.clear(generation)
        scene.run(delivery)
        scene.dead(generation=generation)
    letters = list(scene.app.client.transport.dead_letters())
    assert [letter.causes for letter in letters] == [(CAUSE,) * 3]
    assert scene.depth() == (0, 0)
    assert "dead letter" in caplog.text


def test_the_failure_of_a_dead_letter_waits_for_the_store(scene: Scene) -> None:
    scene.recoverer._max_crashes = 1
    scene.run(scene.hold(1)[0])
    scene.store.fail("store", 2, lambda: ResultStoreUnavailable("away"))
    assert scene.dead()["dead"] == 1
    assert scene.state() is None
    scene.recoverer.retry_unstored()
    assert scene.state() is None
    scene.recoverer.retry_unstored()
    assert scene.state() == "FAILURE"
    before = scene.store.calls["store"]
    scene.recoverer.retry_unstored()
    assert scene.store.calls["store"] == before, "nothing is left"


@pytest.mark.parametrize(
    ("task", "message", "store_errors", "state"),
    [
        (False, None, False, "FAILURE"),
        (True, None, False, None),
        (True, None, True, "FAILURE"),
        (True, False, False, "FAILURE"),
        (False, True, False, None),
        (False, True, True, "FAILURE"),
    ],
)
def test_the_failure_of_a_dead_letter_is_stored_only_where_results_are(
    scene: Scene, task: bool, message: bool | None, store_errors: bool, state: str | None
) -> None:
    scene.recoverer._max_crashes = 1
    scene.work.ignore_result, scene.work.store_errors_even_if_ignored = task, store_errors
    options = {} if message is None else {"ignore_result": message}
    scene.work.apply_async((1,), task_id="id-0", **options)
    scene.run(scene.reserved())
    assert scene.dead()["dead"] == 1
    assert scene.state() == state


def test_the_failure_of_a_dead_letter_of_an_unknown_task_follows_the_configuration(scene: Scene) -> None:
    scene.recoverer._max_crashes = 1
    scene.work.apply_async((1,), task_id="id-0")
    scene.run(scene.reserved())
    del scene.app.registry[scene.work.name]
    assert scene.dead()["dead"] == 1
    assert scene.state() == "FAILURE"


def test_a_dead_letter_that_is_no_message_is_reported_without_a_result(scene: Scene) -> None:
    scene.recoverer._max_crashes = 1
    scene.app.client.transport.send([Outgoing("celery", b"no message")])
    delivery = scene.consumer.reserve(1)[0]
    scene.run(delivery)
    assert scene.dead()["dead"] == 1


@pytest.mark.parametrize("name", ["attach", "recover"])
def test_a_broker_that_is_away_is_reported_to_the_caller(scene: Scene, name: str) -> None:
    scene.run(scene.hold(1)[0])
    scene.transport.fail(name, 1)
    with pytest.raises(BrokerUnavailable):
        scene.dead()
    assert scene.dead()["returned"] == 1
    assert scene.crashes() == [1]


def test_what_was_taken_over_from_other_workers_is_said(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.recoverer.report_lapsed(Recovery())
    assert caplog.text == ""
    scene.recoverer.report_lapsed(Recovery(returned=3, suspects=3))
    assert "3 messages returned, 3 suspects" in caplog.text


def test_an_unknown_request_is_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match="unknown request"):
        scene.recoverer.carry_out({"op": "dance"})


# --- recall ----------------------------------------------------------------------------------------------


def test_a_recall_settles_what_is_done_and_returns_what_is_not_begun(scene: Scene) -> None:
    first, second, *_ = scene.hold(4)
    assert scene.slot.append_outcome(scene.finished(first, follow_up=True))
    scene.run(second, 1)
    answer = scene.recall(index=2)
    assert answer == {"op": "moved", "slot": 0, "generation": 1, "batch": 1, "moved": 2}
    assert scene.depth() == (2, 1)
    assert scene.state("id-0") == "SUCCESS"
    assert scene.slot.words[A_MOVED] == 1
    assert scene.recall(index=2)["moved"] == 0, "asked twice"
    assert scene.depth("after") == (1, 0)


@pytest.mark.parametrize("fields", [{"batch": 2}, {"generation": 2}])
def test_a_recall_of_another_batch_or_child_moves_nothing(scene: Scene, fields: dict[str, Any]) -> None:
    scene.hold(3)
    assert scene.recall(**fields)["moved"] == 0
    assert scene.depth() == (0, 3)


def test_a_recall_of_everything_that_is_held_has_nothing_to_move(scene: Scene) -> None:
    scene.hold(2)
    assert scene.recall(index=2)["moved"] == 0
    assert scene.depth() == (0, 2)


def test_outcomes_that_the_child_settles_while_they_are_read_are_left_to_it(scene: Scene) -> None:
    first, _ = scene.hold(2)
    steps: list[int] = []

    def child_goes_on() -> None:
        steps.append(1)
        if len(steps) == at:
            scene.slot.clear_outcomes()
            scene.slot.append_outcome(b"something else")

    for at in range(1, 8):
        steps.clear()
        scene.slot.clear_outcomes()
        whole = scene.finished(first)
        scene.slot.append_outcome(whole)
        found = GatedSlot(scene.slot, child_goes_on).read_outcomes()
        assert found in ([], [whole], [b"something else"]), f"torn at step {at}"


def test_attached_consumers_are_closed(scene: Scene) -> None:
    closed: list[str] = []
    attach = scene.app.client.transport.attach

    def attached(owner: str) -> Any:
        consumer = attach(owner)
        consumer.close = lambda: closed.append(owner)  # type: ignore[method-assign]
        return consumer

    scene.transport.attach = attached  # type: ignore[attr-defined]
    scene.hold(2)
    scene.recall()
    scene.dead()
    assert closed == [f"{WORKER}.0.1"] * 2


# --- brokers that give a dead child's messages to others at once ----------------------------------------


@pytest.mark.parametrize(
    ("verdict", "options"), [("timeout", {}), ("crash", {"reject_on_worker_lost": False})]
)
def test_word_is_left_where_nobody_can_settle_for_a_dead_child(
    scene: Scene, verdict: str, options: dict[str, Any]
) -> None:
    left: list[tuple[str, bytes]] = []
    scene.transport.entomb = lambda task_id, note: left.append((task_id, note))
    scene.run(scene.hold(1)[0], **options)
    scene.dead(verdict)
    ((task_id, note),) = left
    assert task_id == "id-0"
    assert read_note(note).error.args == error_of({"verdict": verdict, "cause": CAUSE, "limit_s": 2.0}).args
    assert scene.state() == "FAILURE"
    assert scene.depth() == (1, 0), "its message comes again, and is settled by whoever gets it"


def test_no_word_is_left_of_what_runs_again_or_was_acknowledged_before(scene: Scene) -> None:
    left: list[str] = []
    scene.transport.entomb = lambda task_id, note: left.append(task_id)
    scene.run(scene.hold(1)[0])
    scene.dead("crash")
    assert left == []
