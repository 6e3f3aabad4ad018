"""Which task a thread runs."""

from __future__ import annotations

import threading

from prefork.engine import task_context


def test_the_current_task_is_known_until_it_is_cleared() -> None:
    assert task_context.current() is None
    task_context.set_current("id", "name")
    assert task_context.current() == ("id", "name")
    task_context.clear_current()
    assert task_context.current() is None


def test_a_task_inside_a_task_gives_way_to_the_outer_one_again() -> None:
    outer = task_context.set_current("outer", "a")
    inner = task_context.set_current("inner", "b")
    task_context.restore(inner)
    assert task_context.current() == ("outer", "a")
    task_context.restore(outer)
    assert task_context.current() is None


def test_threads_do_not_see_each_others_tasks() -> None:
    token = task_context.set_current("id", "name")
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(task_context.current()))
    thread.start()
    thread.join(5)
    task_context.restore(token)
    assert seen == [None]
