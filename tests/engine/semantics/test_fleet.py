"""What the other tests of task semantics stand on: the same project below a worker on every broker."""

from __future__ import annotations

import pytest

from prefork.engine.message import Malformed, MalformedMessage
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

SOURCE = """
app = App("fleet", **SETTINGS)

@app.task(bind=True)
def where(self, text):
    note("ran", text)
    return [self.request.hostname, os.getpid(), {"given": text}]
"""


def test_a_task_runs_in_the_worker_and_its_result_comes_back(fleet: Fleet) -> None:
    text = fleet.unique()
    node, _, given = fleet.task("where").delay(text).get(timeout=OUTSIDE_S)
    assert "@" in node
    assert given == {"given": text}
    assert text in fleet.notes("ran")


def test_a_second_worker_serves_the_same_queue(fleet: Fleet) -> None:
    def node() -> str:
        return str(fleet.task("where").delay("x").get(timeout=OUTSIDE_S)[0])

    first = node()
    with fleet.another_worker():
        assert eventually(lambda: node() != first, deadline_s=OUTSIDE_S)
    assert node() == first


def test_bytes_that_are_no_message_become_a_dead_letter_and_a_line_in_the_log(fleet: Fleet) -> None:
    fleet.send_raw(b"\x00 nonsense")
    assert eventually(fleet.dead, deadline_s=OUTSIDE_S)
    fleet.wait_for_log("malformed message in queue 'celery'")


def test_whoever_waits_for_a_malformed_message_is_told_what_is_wrong_with_it(fleet: Fleet) -> None:
    result = fleet.task("where").apply_async(("x",), headers={"eta": "garbage"})
    with pytest.raises(MalformedMessage, match=r"fleet_project.where\[.*\]: bad-eta: .*garbage") as caught:
        result.get(timeout=OUTSIDE_S)
    assert (caught.value.reason, caught.value.task_id) == (Malformed.BAD_ETA, result.id)


@pytest.mark.needs("several_processes")
def test_a_worker_that_is_killed_is_followed_by_another(fleet: Fleet) -> None:
    before = fleet.task("where").delay("x").get(timeout=OUTSIDE_S)[1]
    fleet.kill_worker()
    sent = fleet.task("where").delay("y")
    fleet.start_worker()
    assert sent.get(timeout=OUTSIDE_S)[1] != before
