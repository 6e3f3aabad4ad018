"""What the agent does about revocations: the board, the broker's memory, the result store, what runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import revoker as module
from prefork.engine.app import App
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.revoked_board import REVOKED_MAX
from prefork.engine.revoked_keys import stamp_key, task_key
from prefork.engine.revoker import AWAY_S, CANCEL_S, SEEK_S
from prefork.engine.scoreboard import (
    C_CURSOR,
    C_POLICY,
    C_RUNNING,
    Policy,
)
from prefork.engine.settling import Settler
from prefork.engine.storage import Storage, open_storage
from prefork.transports.errors import ResultStoreUnavailable
from support.apps import memory_app
from support.faulty import Faulty
from support.one_child import OneChild
from support.revoker_scene import Scene

LIFETIME_S = 100.0


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        made.conf.result_backend = made.conf.broker_url
        made.conf.worker_revoke_expires = LIFETIME_S
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1_000.0]
    monkeypatch.setattr(module, "mono_s", lambda: now_s[0])
    return now_s


@pytest.fixture
def scene(app: App, clock: list[float]) -> Scene:
    return Scene(app)


def remembered(scene: Scene) -> list[str]:
    return list(scene.app.client.transport.revoked())  # type: ignore[attr-defined]


# --- the board, the broker, the store -------------------------------------------------------------------


def test_children_see_it_at_once_and_broker_and_store_at_the_next_turn(scene: Scene) -> None:
    assert scene.revoker.revoke(["a", "b", "a"]).flagged == ["a", "b"]
    assert scene.revoked.revokes("a", None)
    assert remembered(scene) == []
    scene.revoker.turn()
    assert remembered(scene) == [task_key("a"), task_key("b")]
    assert scene.app.AsyncResult("a").state == "REVOKED"
    assert scene.revoker.revoked() == ["a", "b"]


@pytest.mark.parametrize(("state", "kept"), [("STARTED", True), ("PROGRESS", True), ("RETRY", False)])
def test_only_what_waits_is_marked_as_revoked(scene: Scene, state: str, kept: bool) -> None:
    scene.app.client.stored._write("id", state, None)
    scene.revoker.revoke(["id"])
    scene.revoker.turn()
    assert scene.app.AsyncResult("id").state == (state if kept else "REVOKED")


def test_what_runs_is_not_marked_as_revoked(scene: Scene) -> None:
    scene.runs(0, "runs")
    scene.board.slot(0).words[C_CURSOR] = 1
    scene.revoker.revoke(["runs", "waits"])
    scene.revoker.turn()
    assert [scene.app.AsyncResult(one).state for one in ("runs", "waits")] == ["PENDING", "REVOKED"]
    assert scene.revoker.may_run(["runs", "waits"]) == {"runs"}


def test_where_another_worker_may_run_it_nothing_is_marked(scene: Scene) -> None:
    scene.app.client.transport.heartbeat("another", 100.0)
    scene.revoker.revoke(["id"])
    scene.revoker.turn()
    assert scene.revoked.revokes("id", None)
    assert scene.app.AsyncResult("id").state == "PENDING"


def test_of_coroutines_side_by_side_any_may_run(app: App, clock: list[float]) -> None:
    app.conf.worker_async_concurrency = 2
    scene = Scene(app)
    scene.revoker.revoke(["id"])
    scene.revoker.turn()
    assert scene.app.AsyncResult("id").state == "PENDING"


def test_a_worker_that_starts_knows_what_the_broker_remembers(scene: Scene) -> None:
    scene.app.client.transport.revoke(  # type: ignore[attr-defined]
        [task_key("old"), stamp_key("tenant", "acme")], LIFETIME_S
    )
    scene.revoker.turn()
    assert scene.revoked.revokes("old", None)
    assert scene.revoked.revokes("new", {"tenant": "acme"})
    assert scene.app.AsyncResult("old").state == "PENDING"  # whoever revoked it has said so, or will
    assert scene.revoker.revoked() == ["old"]


def test_what_another_worker_tells_is_not_passed_on(scene: Scene) -> None:
    scene.revoker.load(["told"])
    scene.revoker.turn()
    assert scene.revoked.revokes("told", None)
    assert remembered(scene) == []


def test_what_the_broker_could_not_take_is_said_again(app: App, clock: list[float]) -> None:
    plain = open_storage(app)
    faulty = Faulty(plain.transport)
    table = app.client.table
    scene = Scene(app, Storage(faulty, plain.store, Settler(faulty, plain.store, together=True), table))  # type: ignore[arg-type]
    faulty.fail("revoke", 2)
    scene.revoker.revoke(["a"])
    for _ in range(2):
        scene.revoker.turn()
        assert remembered(scene) == []
    assert scene.revoked.revokes("a", None)
    scene.revoker.turn()
    assert remembered(scene) == [task_key("a")]


def test_a_store_that_does_not_answer_is_not_asked_all_the_time(
    app: App, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """It may keep the agent waiting each time. What concerns the broker goes on."""
    plain = open_storage(app)
    assert plain.store is not None
    attempts: list[float] = []
    scene = Scene(app, plain)

    def revoke(ids: Any, **_: Any) -> None:
        attempts.append(clock[0])
        if len(attempts) < 3:
            raise ResultStoreUnavailable("silent")

    scene.revoker._stored.revoke = revoke  # type: ignore[method-assign]
    begun = clock[0]
    scene.revoker.revoke(["a"])
    for _ in range(60):
        scene.revoker.turn()
        assert remembered(scene) == [task_key("a")]
        clock[0] += 0.25
    assert attempts == [begun, begun + AWAY_S, begun + 2 * AWAY_S]
    assert caplog.text.count("trying again") == 1


def test_what_nobody_takes_does_not_grow_for_ever(app: App, clock: list[float]) -> None:
    plain = open_storage(app)
    faulty = Faulty(plain.transport)
    scene = Scene(
        app,
        Storage(faulty, plain.store, Settler(faulty, plain.store, together=True), app.client.table),  # type: ignore[arg-type]
    )
    faulty.fail("revoke", 100)
    for turn in range(3):
        scene.revoker.revoke([f"{turn}-{number}" for number in range(REVOKED_MAX)])
        scene.revoker.turn()
        clock[0] += AWAY_S
    assert len(scene.revoker._unsaved) == REVOKED_MAX
    assert scene.revoker._unsaved[-1] == task_key(f"2-{REVOKED_MAX - 1}")


def test_it_is_forgotten_after_its_lifetime(scene: Scene, clock: list[float]) -> None:
    scene.revoker.load(["a"])
    scene.revoker.turn()
    clock[0] += LIFETIME_S + 1
    scene.revoker.turn()
    assert not scene.revoked.revokes("a", None)


def test_the_newest_fifty_thousand_are_kept_however_many_there_are(scene: Scene) -> None:
    scene.storage.store = None
    ids = [str(number) for number in range(REVOKED_MAX + 20_000)]
    scene.revoker.revoke(ids)
    assert all(scene.revoked.revokes(task_id, None) for task_id in ids[20_000::997])
    assert not scene.revoked.revokes(ids[0], None)
    scene.revoker.turn()
    assert scene.revoker.revoked()[0] == ids[20_000]
    assert scene.revoked.revokes(ids[-1], None)


def test_fewer_are_kept_if_it_is_configured_so(app: App, clock: list[float]) -> None:
    app.conf.worker_revokes_max = 2
    scene = Scene(app)
    scene.revoker.revoke(["a", "b", "c"])
    scene.revoker.turn()
    assert scene.revoker.revoked() == ["b", "c"]


def test_the_successor_of_an_agent_that_died_goes_on_with_what_the_children_see(scene: Scene) -> None:
    scene.revoker.revoke(["a"])
    successor = scene.another()
    assert scene.revoked.revokes("a", None)
    successor.revoke(["b"])
    assert scene.revoked.revokes("a", None)
    assert scene.revoked.revokes("b", None)


# --- what runs ------------------------------------------------------------------------------------------


def test_what_runs_is_left_alone_unless_its_end_is_asked_for(scene: Scene) -> None:
    scene.runs(0, "a")
    assert scene.revoker.revoke(["a"]).ended == []
    assert scene.asked == []


def test_the_execution_of_that_id_is_ended_and_no_other(scene: Scene) -> None:
    scene.runs(0, "other")
    scene.runs(1, "x" * 300 + "a", execution=7)
    scene.runs(2, "x" * 300 + "b")
    assert scene.revoker.revoke(["x" * 300 + "a"], terminate=True, signal="KILL").ended == ["x" * 300 + "a"]
    assert scene.asked == [{"op": "terminate", "slot": 1, "generation": 1, "execution": 7, "signal": 9}]
    assert scene.revoked.ends("x" * 300 + "a")
    assert not scene.revoked.ends("other")


@pytest.mark.parametrize(("number", "asked"), [("TERM", 0), ("KILL", 1)])
def test_one_that_runs_beside_others_is_ended_by_its_own_process_unless_it_is_to_be_killed(
    scene: Scene, number: str, asked: int
) -> None:
    scene.runs(0, "a")
    scene.board.slot(0).words[C_POLICY] = Policy.BESIDE
    scene.revoker.revoke(["a"], terminate=True, signal=number)
    assert scene.revoked.ends("a")
    assert len(scene.asked) == asked


def test_one_that_has_not_quite_begun_is_waited_for(scene: Scene, clock: list[float]) -> None:
    assert scene.revoker.revoke(["a"], terminate=True).ended == []
    scene.revoker.turn()
    scene.runs(0, "a", execution=3)
    scene.revoker.turn()
    scene.revoker.turn()
    assert [asked["execution"] for asked in scene.asked] == [3]


def test_it_is_not_waited_for_for_ever(scene: Scene, clock: list[float]) -> None:
    scene.revoker.revoke(["a"], terminate=True)
    clock[0] += SEEK_S + 1
    scene.revoker.turn()
    scene.runs(0, "a")
    scene.revoker.turn()
    assert scene.asked == []


def test_a_slot_whose_texts_are_being_written_is_looked_at_again(scene: Scene) -> None:
    scene.runs(0, "a")
    slot = scene.board.slot(0)
    words = slot.words
    real = type(slot).read_texts
    type(slot).read_texts, before = (lambda self: real(self)._replace(torn=True)), real  # type: ignore[method-assign]
    try:
        assert scene.revoker.revoke(["a"], terminate=True).ended == []
    finally:
        type(slot).read_texts = before  # type: ignore[method-assign]
    assert words[C_RUNNING]
    scene.revoker.turn()
    assert len(scene.asked) == 1


def test_no_more_than_a_thousand_are_sought(scene: Scene) -> None:
    scene.revoker.revoke([str(number) for number in range(1_500)], terminate=True)
    scene.runs(0, "0")
    scene.runs(1, "1499")
    scene.revoker.turn()
    assert [asked["slot"] for asked in scene.asked] == [1]


@pytest.mark.parametrize("wrong", ["SIGNOTHING", "STOP", 0, 99, object()])
def test_a_signal_that_ends_nothing_is_refused_and_nothing_is_revoked(scene: Scene, wrong: object) -> None:
    with pytest.raises(ValueError, match="signal|ends no process"):
        scene.revoker.revoke(["a"], terminate=True, signal=wrong)
    assert not scene.revoked.revokes("a", None)


def test_a_worker_of_one_process_refuses_to_end_what_runs_and_revokes_it_all_the_same(scene: Scene) -> None:
    alone = scene.another(alone=True)
    with pytest.raises(ImproperlyConfigured, match="-P solo"):
        alone.revoke(["a"], terminate=True)
    assert scene.revoked.revokes("a", None)
    with pytest.raises(ImproperlyConfigured, match="-P solo"):
        alone.revoke_by_stamped_headers(["tenant=acme"], terminate=True)
    assert scene.revoked.revokes("b", {"tenant": "acme"})


def test_one_of_several_that_does_not_heed_its_cancellation_is_killed_with_the_others(
    scene: Scene, clock: list[float]
) -> None:
    scene.runs(0, "a")
    scene.board.slot(0).words[C_POLICY] = Policy.BESIDE
    assert scene.revoker.revoke(["a"], terminate=True).ended == ["a"]
    assert scene.revoked.ends("a")
    for _ in range(3):
        scene.revoker.turn()
        assert scene.asked == []
        clock[0] += CANCEL_S / 3 + 0.1
    scene.revoker.turn()
    scene.revoker.turn()
    assert [(asked["execution"], asked["signal"]) for asked in scene.asked] == [(1, 9)]


def test_one_of_several_that_heeds_it_costs_nobody_his_process(scene: Scene, clock: list[float]) -> None:
    scene.runs(0, "a")
    scene.board.slot(0).words[C_POLICY] = Policy.BESIDE
    scene.revoker.revoke(["a"], terminate=True)
    scene.runs(0, "b", execution=2)
    clock[0] += CANCEL_S + 1
    scene.revoker.turn()
    assert scene.asked == []


# --- stamps ---------------------------------------------------------------------------------------------


def test_what_runs_is_found_by_what_its_message_is_stamped_with(scene: Scene) -> None:
    app = scene.app

    @app.task(name="work")
    def work() -> None:
        """Never runs."""

    for task_id, tenant in (("meant", "acme"), ("other", "else")):
        headers = {"stamped_headers": ["tenant"], "stamps": {"tenant": [tenant]}}
        work.apply_async(task_id=task_id, headers=headers)
    child = OneChild(app, board=scene.board)
    try:
        deliveries = child.parts.consumer.reserve(2)
        scene.runs(0, "meant", tag=deliveries[0].tag)
        done = scene.revoker.revoke_by_stamped_headers({"tenant": "acme"}, terminate=True)
        assert done.flagged == ['["tenant", "acme"]']
        assert done.ended == ["meant"]
        scene.runs(0, "other", execution=2, tag=deliveries[1].tag)
        assert scene.revoker.revoke_by_stamped_headers(["tenant=acme"], terminate=True).ended == []
        scene.runs(0, "gone", execution=3, tag=b"gone")
        assert scene.revoker.revoke_by_stamped_headers(["tenant=acme"], terminate=True).ended == []
    finally:
        child.close()
    assert [asked["execution"] for asked in scene.asked] == [1]


def test_a_task_in_which_only_something_is_raised_says_itself_how_it_ends(scene: Scene) -> None:
    scene.runs(0, "a")
    scene.revoker.revoke(["a"], terminate=True, signal="SIGUSR1")
    scene.revoker.turn()
    assert scene.app.AsyncResult("a").state == "PENDING"
    assert remembered(scene) == [task_key("a")]
