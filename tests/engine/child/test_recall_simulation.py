"""Every interleaving of what a child does with recall, death and recovery (design §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.apps import memory_app
from support.gated_slot import Step
from support.recall_world import AFTER, QUEUE, World

MESSAGES = 5


@pytest.fixture
def world() -> Iterator[World]:
    with memory_app(task_default_queue=QUEUE) as app:
        app.conf.result_backend = app.conf.broker_url

        @app.task(bind=True)
        def work(self):
            made.entered(self.request.id)
            return self.request.id

        @app.task
        def after(value):
            return value

        made = World(app)
        for number in range(MESSAGES):
            work.apply_async(task_id=f"id-{number}", link=after.s().set(queue=AFTER))
        for waiting in app.client.transport.peek(QUEUE):
            made.documents[made.id_of(waiting.document)] = waiting.document
        assert len(made.documents) == MESSAGES
        yield made
        made.close()


def steps_of(world: World, *, messages: int, limit: int) -> int:
    return world.play({}, messages=messages, limit=limit)


def at(*pairs: tuple[int, Step]) -> dict[int, list[Step]]:
    schedule: dict[int, list[Step]] = {}
    for step, action in pairs:
        schedule.setdefault(step, []).append(action)
    return schedule


def test_an_undisturbed_child_runs_everything_once(world: World) -> None:
    assert steps_of(world, messages=3, limit=2) > 30


def test_a_child_may_die_anywhere(world: World) -> None:
    for step in range(1, steps_of(world, messages=4, limit=3) + 1):
        world.play(at((step, world.die)), messages=4, limit=3)


@pytest.mark.parametrize("stolen", [False, True], ids=["nobody else", "another worker at once"])
def test_a_recall_may_be_marked_anywhere_and_moved_anywhere(world: World, stolen: bool) -> None:
    last = steps_of(world, messages=4, limit=3)
    for marked in range(1, last + 1):
        for moved in range(marked, last + 1):
            pairs = [(marked, world.mark), (moved, world.move)]
            world.play(at(*pairs, *[(moved, world.steal)] * stolen), messages=4, limit=3)


# In parts: together they work for so long that a busy machine needs the time after which a test is ended.
@pytest.mark.parametrize("part", range(6))
def test_a_child_may_die_anywhere_around_a_recall(world: World, part: int) -> None:
    last = steps_of(world, messages=2, limit=2)
    for marked in range(1 + part, last + 1, 6):
        for moved in range(marked, last + 1):
            for died in range(marked, last + 1):
                pairs = [(marked, world.mark), (moved, world.move), (moved, world.steal), (died, world.die)]
                world.play(at(*pairs), messages=2, limit=2)


def test_an_agent_may_die_anywhere_in_a_move_and_its_successor_repeats_it(world: World) -> None:
    last = steps_of(world, messages=3, limit=2)
    for marked in range(1, last + 1):
        for dies_at in range(1, 14, 2):
            for repeated in range(marked, last + 1, 3):

                def half(dies_at: int = dies_at) -> None:
                    world.move(dies_at=dies_at)

                pairs = [
                    (marked, world.mark),
                    (marked, half),
                    (repeated, world.move),
                    (repeated, world.steal),
                ]
                world.play(at(*pairs), messages=3, limit=2)


def test_a_child_may_go_on_while_the_agent_is_slow(world: World) -> None:
    last = steps_of(world, messages=4, limit=2)
    # What is recalled of the first batch while the child is in the second; both have two messages.
    for marked in range(4, last // 2, 6):
        for pauses_at in range(1, 14):
            for ended in range(marked, last + 1):

                def slow(pauses_at: int = pauses_at) -> None:
                    world.begin_move(pauses_at)

                pairs = [(marked, world.mark), (marked, slow), (ended, world.end_move), (ended, world.steal)]
                world.play(at(*pairs), messages=4, limit=2)


ACTIONS = ("mark", "move", "steal", "die", "half", "begin", "end")


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moments=st.lists(
        st.tuples(st.integers(1, 120), st.sampled_from(ACTIONS), st.integers(1, 14)), min_size=1, max_size=10
    ),
    messages=st.integers(1, MESSAGES),
    limit=st.integers(1, 4),
)
def test_any_history_keeps_every_message(
    world: World, moments: list[tuple[int, str, int]], messages: int, limit: int
) -> None:
    actions: dict[str, Callable[[int], None]] = {
        "mark": lambda _: world.mark(),
        "move": lambda _: world.move(),
        "steal": lambda _: world.steal(),
        "die": lambda _: world.die(),
        "begin": world.begin_move,
        "end": lambda _: world.end_move(),
        "half": lambda step: world.move(dies_at=step),
    }
    schedule: dict[int, list[Step]] = {}
    for step, name, dies_at in moments:
        schedule.setdefault(step, []).append(lambda name=name, at=dies_at: actions[name](at))  # type: ignore[misc]
    world.play(schedule, messages=messages, limit=limit)
