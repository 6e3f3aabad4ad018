"""When a stream of pushed messages begins, goes on and ends."""

from __future__ import annotations

from prefork.transports.amqp.stream import READ_AHEAD_MIN, Stream


class Nothing:
    """A wire on which nothing comes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.waited_s: list[float] = []

    def write(self, data: bytes, timeout_s: float) -> None:
        self.written.append(data)

    def pump(self, timeout_s: float) -> bool:
        self.waited_s.append(timeout_s)
        return False


class Begun:
    """A stream of 100 messages, and what it has asked of the broker."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.cancelled: list[str] = []
        self.wire = Nothing()
        self.stream = Stream(self.counts.append, lambda wire, tags, s: self.cancelled.extend(tags))
        self.stream.allowed = self.stream.plenty = True
        self.stream.begin(self.wire, 1, "q", 100)  # type: ignore[arg-type]

    def flow(self, max_n: int, has_come: bool) -> bool:
        """Whether it goes on."""
        self.stream.flow(self.wire, max_n, lambda: has_come)  # type: ignore[arg-type]
        return self.stream.prefetch > 0


def test_it_begins_when_batches_are_full_and_do_not_grow_any_more() -> None:
    stream = Stream([].append, lambda wire, tags, s: None)
    assert not stream.fits(READ_AHEAD_MIN) and not stream.fits(READ_AHEAD_MIN)
    stream = Stream([].append, lambda wire, tags, s: None)
    stream.allowed = stream.plenty = True
    assert [stream.fits(max_n) for max_n in (64, 128, 255, 255)] == [False, False, True, True]
    assert [stream.fits(max_n) for max_n in (READ_AHEAD_MIN - 1, READ_AHEAD_MIN - 1)] == [False, False]
    stream.prefetch = 100
    assert not stream.fits(READ_AHEAD_MIN), "it has begun"


def test_one_slow_run_does_not_end_it_and_several_do() -> None:
    begun = Begun()
    assert [begun.flow(max_n, True) for max_n in (74, 74, 75, 74, 74)] == [True] * 5
    assert not begun.flow(74, True)
    assert begun.cancelled == ["s0"]


def test_a_task_that_is_not_short_ends_it_at_once() -> None:
    begun = Begun()
    assert not begun.flow(11, True)


def test_a_pause_ends_it() -> None:
    begun = Begun()
    assert begun.flow(100, True)
    assert begun.wire.waited_s == [0]
    assert not begun.flow(100, False)
    assert max(begun.wire.waited_s) > 0
    begun.stream.end(begun.wire)  # type: ignore[arg-type]
    assert begun.cancelled == ["s0"], "what has ended is not ended again"


def test_a_stream_that_is_lost_with_its_channel_is_forgotten() -> None:
    begun = Begun()
    begun.stream.forget()
    assert (begun.stream.prefetch, begun.stream.fits(100), begun.cancelled) == (0, False, [])
