"""Makes slots ready (again), hints first, so that nobody can miss them."""

from __future__ import annotations

from collections.abc import Sequence

from .append import ready_stream
from .layout import State
from .queuedir import QueueDir
from .segment import Segment


def make_ready(queue: QueueDir, segment: Segment, states: bytearray, slots: Sequence[int]) -> None:
    """Make slots of one segment ready. The lock is held; `states` is kept up to date."""
    if not slots:
        return
    found = segment.id
    if not found.minute:
        out_page = queue.read_out()
        if out_page.number(found.priority) > found.number:
            # Before the states: a head behind a ready message only costs a look, one past it hides it.
            out_page.set_number(found.priority, found.number)
            queue.write_out(out_page)
    in_page = queue.read_in()
    stream = ready_stream(found)
    in_page.set_count(stream, in_page.count(stream) + len(slots))
    if found.minute:
        in_page.promoted_minute = max(in_page.promoted_minute, found.minute)
    queue.write_in(in_page)
    for slot in slots:
        states[slot] = State.READY
    segment.write_states(0, states)


def make_delayed(
    queue: QueueDir, segment: Segment, states: bytearray, slots: Sequence[int], due_ms: int
) -> None:
    """Let slots of one bucket wait for their time. The lock is held.

    :param due_ms: the earliest of their due times.
    """
    in_page = queue.read_in()
    in_page.next_due_ms = min(in_page.next_due_ms, due_ms)
    queue.write_in(in_page)
    for slot in slots:
        states[slot] = State.DELAYED
    segment.write_states(0, states)
