"""A descriptor that outlives connections, and fires when it is time, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from prefork.transports import timed_poll
from prefork.transports.timed_poll import TimedPoll
from support import waiting


@pytest.fixture
def poll() -> Iterator[TimedPoll]:
    with closing(TimedPoll()) as made:
        yield made


def readable(poll: TimedPoll, within_s: float = 0.0) -> bool:
    return waiting.readable(poll.fileno(), within_s)


def test_it_fires_when_its_time_has_come_and_not_before(poll: TimedPoll) -> None:
    assert not readable(poll)
    poll.timer.after(0.01)
    assert readable(poll, 5.0)
    assert poll.fires()
    assert poll.timer.clear()
    assert not poll.fires()


def test_it_fires_for_the_descriptor_that_was_given_last(poll: TimedPoll) -> None:
    first, second = os.eventfd(1), os.eventfd(0)
    poll.watch(first)
    assert poll.fires()
    poll.watch(second)
    assert not poll.fires()
    os.eventfd_write(second, 1)
    assert poll.fires()
    poll.unwatch()
    assert not poll.fires()
    os.close(first)
    os.close(second)


def test_a_descriptor_that_was_closed_before_may_be_replaced(poll: TimedPoll) -> None:
    gone = os.eventfd(0)
    poll.watch(gone)
    os.close(gone)
    other = os.eventfd(1)
    poll.watch(other)
    assert poll.fires()
    poll.unwatch()
    poll.unwatch()
    os.close(other)


def test_what_is_closed_has_no_descriptor_and_may_be_closed_again() -> None:
    watched = os.eventfd(0)
    poll = TimedPoll()
    poll.watch(watched)
    poll.close()
    assert (poll.closed, poll.fileno()) == (True, -1)
    poll.unwatch()
    poll.close()
    os.close(watched)  # still its owner's


def test_it_leaves_no_descriptor_open_when_there_is_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(timed_poll, "Timer", none_left)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many"):
        TimedPoll()
    # What other tests left may be closed meanwhile: only new ones are ours.
    assert set(os.listdir("/proc/self/fd")) <= before
