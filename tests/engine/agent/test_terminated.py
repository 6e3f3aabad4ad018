"""What the agent makes of a child that died because the task it ran was to be ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.exceptions import TaskRevokedError
from prefork.engine.obituary import read_note
from prefork.engine.result_document import decode
from prefork.engine.scoreboard import C_RUNNING
from prefork.transports.base import Outgoing
from prefork.transports.errors import BrokerUnavailable
from support.agent_scene import Scene
from support.apps import memory_app
from support.one_child import unlink

TERMINATED = {"verdict": "terminated", "execution": 1, "signum": 15, "charge": False}


@pytest.fixture
def scene() -> Iterator[Scene]:
    with memory_app() as app:
        made = Scene(app)
        yield made
        unlink(made.link)


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """What receivers of task_revoked were told."""
    told: list[tuple[Any, dict[str, Any]]] = []

    def receiver(sender: Any, **about: Any) -> None:
        told.append((sender, about))

    signals.task_revoked.connect(receiver, weak=False)
    yield told
    signals.task_revoked.disconnect(receiver)


def result(scene: Scene, task_id: str = "id-0") -> Any:
    document = scene.app.client.results.get([task_id])[0]
    assert document is not None
    return decode(document, scene.app.client.table.by_name("json"))


def test_it_is_revoked_and_done_with_and_its_neighbours_return(
    scene: Scene, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    held = scene.hold(3)
    scene.run(held[0])
    scene.dead(**TERMINATED)
    assert scene.depth() == (2, 0)
    assert scene.crashes() == [0, 0]
    found = result(scene)
    assert (found.status, found.result["exc_type"]) == ("REVOKED", "TaskRevokedError")
    assert found.result["exc_message"] == ["terminated"]
    [(sender, about)] = heard
    assert sender is scene.app.tasks[scene.work.name]
    request = about["request"]
    assert (request.id, request.args, request.name) == ("id-0", [0], scene.work.name)
    assert request.task is scene.app.tasks[scene.work.name]
    assert request.message.payload[0] == [0]
    assert (about["terminated"], about["signum"], about["expired"]) == (True, 15, False)


def test_one_that_was_acknowledged_early_is_revoked(
    scene: Scene, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    scene.run(scene.hold(1)[0], acks_late=False)
    scene.dead(**TERMINATED)
    assert result(scene).status == "REVOKED"
    assert scene.depth() == (0, 0)
    [(_, about)] = heard
    assert (about["request"].id, about["request"].name) == ("id-0", scene.work.name)
    assert about["request"].task is scene.app.tasks[scene.work.name]
    assert (about["request"].args, about["request"].message) == ([], None), "nobody has its message"


def test_an_ignored_result_stays_so_and_error_callbacks_are_not_called(scene: Scene) -> None:
    @scene.app.task(name="told")
    def told(*args: Any) -> None:
        """An error callback."""

    scene.work.apply_async((1,), task_id="id-0", link_error=told.s().set(queue="errors"))
    scene.run(scene.reserved(), ignore_result=True)
    scene.dead(**TERMINATED)
    assert scene.state() is None
    assert scene.depth("errors") == (0, 0)


def test_another_execution_that_died_instead_is_given_back_and_not_charged(
    scene: Scene, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    scene.run(scene.hold(1)[0])
    scene.dead(**{**TERMINATED, "execution": 77})
    assert (scene.depth(), scene.crashes(), scene.state()) == ((1, 0), [0], None)
    assert heard == []


def test_one_that_ended_just_before_its_process_did_returns_untouched(scene: Scene) -> None:
    scene.run(scene.hold(1)[0])
    scene.slot.words[C_RUNNING] = 0
    scene.dead(**TERMINATED)
    assert (scene.depth(), scene.crashes(), scene.state()) == ((1, 0), [0], None)


def test_to_be_told_twice_does_no_harm(scene: Scene, heard: list[tuple[Any, dict[str, Any]]]) -> None:
    scene.run(scene.hold(1)[0])
    scene.dead(**TERMINATED)
    scene.dead(**TERMINATED)
    assert (scene.depth(), result(scene).status) == ((0, 0), "REVOKED")
    assert len(heard) == 1


def test_while_the_broker_is_away_it_is_to_be_asked_again(
    scene: Scene, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    scene.run(scene.hold(1)[0])
    scene.transport.fail("attach", 1)
    with pytest.raises(BrokerUnavailable):
        scene.dead(**TERMINATED)
    assert heard == []
    scene.dead(**TERMINATED)
    assert result(scene).status == "REVOKED"
    assert len(heard) == 1


def test_where_only_the_next_child_can_settle_it_word_is_left(scene: Scene) -> None:
    left: list[tuple[str, bytes]] = []
    scene.transport.entomb = lambda task_id, note: left.append((task_id, note))
    scene.run(scene.hold(1)[0])
    scene.dead(**TERMINATED)
    ((task_id, note),) = left
    assert task_id == "id-0"
    error = read_note(note).error
    assert isinstance(error, TaskRevokedError)
    assert error.args == ("terminated",)
    assert result(scene).status == "REVOKED"


def test_a_body_that_cannot_be_read_any_more_is_announced_without_arguments(
    scene: Scene, heard: list[tuple[Any, dict[str, Any]]]
) -> None:
    scene.work.apply_async((1,), task_id="id-0")
    [waiting] = scene.app.client.transport.peek("celery", 10)
    spoilt = waiting.document.replace(b"e30sIHsi", b"AAAAAAAA")
    assert spoilt != waiting.document
    scene.app.client.transport.purge("celery")
    scene.app.client.transport.send([Outgoing("celery", spoilt)])
    scene.run(scene.reserved())
    scene.dead(**TERMINATED)
    [(_, about)] = heard
    assert (about["request"].id, about["request"].args) == ("id-0", [])
