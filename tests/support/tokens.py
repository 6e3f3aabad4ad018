"""Whether starts keep to the tokens of a bucket, however late each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from support.semantics import Fleet
from support.waiting import eventually

# Between clocks, and for their resolution.
_SLACK_S = 0.001

GATE = """

@app.task(ignore_result=True)
def gate(name):
    note(name, "inside")
    while not (ROOT / (name + ".open")).exists():
        time.sleep(0.001)
    note(name + ".left", f"{time.monotonic()}")
"""
"""For a project whose tests use `Gate`."""


class Gate:
    """Keeps all children busy, so that what is sent meanwhile waits, and knows when the first is free.

    :param children: of all workers.
    """

    def __init__(self, fleet: Fleet, children: int) -> None:
        self._fleet = fleet
        self._children = children
        self._name = fleet.unique("gate")

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Nobody takes anything within."""
        try:
            for number in range(1, self._children + 1):
                self._fleet.task("gate").delay(self._name)
                self._await(self._name, number)  # one by one: each is another child's
            yield
        finally:
            (self._fleet.root / (self._name + ".open")).touch()

    @property
    def opened_s(self) -> float:
        """When the first child was about to be free, on the monotonic clock: nobody had a token before."""
        return min(map(float, self._await(self._name + ".left", self._children)))

    def _await(self, notes: str, number: int) -> list[str]:
        eventually(lambda: len(self._fleet.notes(notes)) == number, deadline_s=20)
        return self._fleet.notes(notes)


def none_before_its_token(
    moments: Iterable[float], since_s: float, per_s: float, burst: float = 1.0, catch_up_s: float = 0.05
) -> None:
    """Each start has a token, of a bucket that was full at some moment after `since_s`.

    To compare starts with each other would be to blame the bucket where whoever had taken a token stood still
    before it started, and the next one did not (`never_too_many` knows how many may have done that). But when
    the first comes long after `since_s`, so many too many may follow: it is to be as late as it can be told.

    :param moments: of the starts, on the monotonic clock.
    :param since_s: a moment on the same clock, before the first token was taken.
    :param burst: tokens that the bucket holds.
    :param catch_up_s: it holds so many seconds' worth besides.
    """
    held = burst + catch_up_s * per_s
    for number, moment in enumerate(sorted(moments), start=1):
        token_s = since_s + (number - held) / per_s
        assert moment >= token_s - _SLACK_S, (number, moment - since_s, token_s - since_s)


def never_too_many(moments: Iterable[float], children: int, per_s: float, burst: float = 1.0) -> None:
    """Between any two starts there are no more than had tokens, whoever stood still and for how long.

    A child takes at most what the bucket of its worker holds, and starts all of that before it takes more. So
    when something starts, so many had been taken before by each child, and everything else is taken later.

    :param children: of the worker, those included that are being replaced.
    """
    held = burst + 0.05 * per_s
    in_hand = children * int(held) - 1
    ran = sorted(moments)
    for first, from_s in enumerate(ran):
        for last in range(first + 1, len(ran)):
            had = held + in_hand + (ran[last] - from_s + _SLACK_S) * per_s
            assert last - first <= had, (first, last, ran[last] - from_s, had)
