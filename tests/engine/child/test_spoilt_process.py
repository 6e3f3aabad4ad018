"""A process that must not go on: a failed initialization, descriptors that a task has closed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.child import main
from prefork.engine.scoreboard import C_CURSOR, C_HELD, C_RUNNING, C_STATE, Scoreboard, State
from support.faulty import Faulty
from support.forked import in_child
from support.one_child import OneChild, link_of, loaded

Make = Callable[..., OneChild]


def test_a_child_whose_descriptors_a_task_has_closed_ends_instead_of_trying_for_ever(
    app: App, child_of: Make
) -> None:
    @app.task
    def close_doorbell() -> None:
        os.close(child.doorbell_fd)

    close_doorbell.delay()
    child = child_of(app)
    faulty = Faulty(child.parts.consumer)
    faulty.fail("settle", 1_000)
    child.parts.consumer = faulty
    kept_fd = os.dup(child.doorbell_fd)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            child.run()
    finally:
        os.dup2(kept_fd, child.doorbell_fd, inheritable=False)
        os.close(kept_fd)
    assert faulty.calls["settle"] == 1
    # The message is still the one that the death is charged to.
    assert (child.words[C_RUNNING], child.words[C_CURSOR], child.words[C_HELD]) == (0, 1, 1)


def test_a_hook_that_fails_ends_the_boot_after_all_had_their_turn(app: App) -> None:
    def boot() -> None:
        called = []

        def fail(**_: object) -> None:
            called.append("fail")
            raise LookupError("no database")

        def note(**_: object) -> None:
            called.append("note")

        signals.worker_process_init.connect(fail, weak=False)
        signals.worker_process_init.connect(note, weak=False)
        board = Scoreboard()
        link = link_of(board)
        assert main.run(link, loaded(app), 0, 1) == main.EXIT_BOOT_FAILED
        slot = board.slot(0)
        assert slot.words[C_STATE] == State.BOOT_FAILED
        assert "LookupError: no database" in slot.read_report()
        assert called == ["fail", "note"]
        assert os.eventfd_read(link.doorbell_fd) == 1

    in_child(boot)
