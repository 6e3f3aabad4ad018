"""What has come and was not handed out; and what one frame may acknowledge."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp.frames import ack_frames
from prefork.transports.amqp.inbox import Inbox
from prefork.transports.amqp.received import Received


def received(tag: int, *, suspect: bool = False, redelivered: bool = False) -> Received:
    made = Received(b"%d" % tag, tag, "q", {}, b"", exchange="", routing_key="q", redelivered=redelivered)
    made.suspect = suspect
    return made


def tags(messages: list[Received]) -> list[int]:
    return [one.delivery_tag for one in messages]


def test_suspects_are_left_for_last_and_come_alone() -> None:
    inbox = Inbox([received(1), received(2, suspect=True), received(3), received(4, suspect=True)])
    assert inbox.has_suspects()
    assert tags(inbox.take(1)) == [1]
    assert tags(inbox.take(5)) == [3]
    assert tags(inbox.take(5)) == [2]
    assert tags(inbox.take(5)) == [4]
    assert inbox.take(5) == []
    assert not inbox.has_suspects()


def test_what_was_handed_to_nobody_is_first_again_in_its_order() -> None:
    inbox = Inbox(map(received, (1, 2, 3, 4)))
    batch = inbox.take(3)
    inbox.put_back(batch)
    assert tags(list(inbox)) == [1, 2, 3, 4]


def test_what_is_not_here_any_more_is_not_missed() -> None:
    inbox = Inbox([received(1), received(2, redelivered=True)])
    assert tags(inbox.fresh()) == [2]
    gone = [*inbox, received(3)]
    inbox.discard(gone)
    assert not inbox


@given(st.sets(st.integers(1, 40), min_size=1), st.sets(st.integers(1, 40)))
def test_what_stays_held_is_never_acknowledged(done: set[int], others: set[int]) -> None:
    others -= done
    acknowledged: set[int] = set()
    for frame in ack_frames(1, done, others):
        tag, multiple = struct.unpack_from(">QB", frame, 11)
        acknowledged |= set(range(1, tag + 1)) if multiple else {tag}
    assert done <= acknowledged
    assert not acknowledged & others
