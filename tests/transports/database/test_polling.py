"""One poller serves all waiters of a process, and pauses within bounds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.database.polling import PAUSE_S_MAX, PAUSE_S_MIN, ResultPolling, pause_s
from prefork.transports.errors import ResultStoreUnavailable
from support.waiting import Background, eventually


class Shelf:
    """A store in memory that counts looks, and how many there are at once."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.looks: list[tuple[str, ...]] = []
        self.at_once_max = 0
        self.error: Exception | None = None
        self._at_once = 0
        self._lock = threading.Lock()

    def look(self, keys: Sequence[str]) -> dict[str, bytes]:
        with self._lock:
            self._at_once += 1
            self.looks.append(tuple(keys))
            self.at_once_max = max(self.at_once_max, self._at_once)
        try:
            if self.error is not None:
                raise self.error
            return {key: self.documents[key] for key in keys if key in self.documents}
        finally:
            with self._lock:
                self._at_once -= 1


@given(st.floats(0, 1e6), st.floats(0, 1e3))
def test_a_pause_is_bounded_and_grows(waited_s: float, look_s: float) -> None:
    pause = pause_s(waited_s, look_s)
    assert PAUSE_S_MIN <= pause <= PAUSE_S_MAX
    assert pause_s(waited_s + 1, look_s) >= pause <= pause_s(waited_s, look_s + 1)


def test_one_look_serves_everybody() -> None:
    shelf = Shelf()
    polling = ResultPolling(shelf.look)
    waiting = [Background(lambda key=key: polling.wait([key], 10.0)) for key in "abcdefgh"]
    eventually(lambda: any(set(look) == set("abcdefgh") for look in shelf.looks))
    shelf.documents.update({key: key.encode() for key in "abcdefgh"})
    for key, one in zip("abcdefgh", waiting):
        assert one.result(5.0) == {key: key.encode()}


def test_when_the_poller_leaves_another_takes_its_place() -> None:
    shelf = Shelf()
    polling = ResultPolling(shelf.look)
    first = Background(lambda: polling.wait(["first"], 10.0))
    eventually(lambda: ("first",) in shelf.looks[1:])
    second = Background(lambda: polling.wait(["second"], 10.0))
    eventually(lambda: ("first", "second") in shelf.looks)
    shelf.documents["first"] = b"1"
    assert first.result(5.0) == {"first": b"1"}
    shelf.documents["second"] = b"2"
    assert second.result(5.0) == {"second": b"2"}


def test_what_this_process_stores_is_seen_at_once() -> None:
    shelf = Shelf()
    polling = ResultPolling(shelf.look)
    waiting = Background(lambda: polling.wait(["key"], 10.0))
    eventually(lambda: len(shelf.looks) >= 3)
    shelf.documents["key"] = b"here"
    polling.nudge()
    assert waiting.result(5.0) == {"key": b"here"}
    polling.nudge()  # nobody waits


def test_a_failing_look_ends_every_wait_with_the_error() -> None:
    shelf = Shelf()
    polling = ResultPolling(shelf.look)
    waiting = [Background(lambda key=key: polling.wait([key], 10.0)) for key in "ab"]
    eventually(lambda: any(len(look) == 2 for look in shelf.looks))
    shelf.error = ResultStoreUnavailable("away")
    for one in waiting:
        with pytest.raises(ResultStoreUnavailable, match="away"):
            one.result(5.0)
    shelf.error = None
    shelf.documents["a"] = b"back"
    assert polling.wait(["a"], 1.0) == {"a": b"back"}


def test_closing_ends_every_wait() -> None:
    shelf = Shelf()
    polling = ResultPolling(shelf.look)
    waiting = [Background(lambda key=key: polling.wait([key], None)) for key in "abc"]
    eventually(lambda: any(len(look) == 3 for look in shelf.looks))
    polling.close()
    assert [one.result(5.0) for one in waiting] == [{}, {}, {}]


def test_a_wait_that_ends_leaves_the_others_waiting() -> None:
    shelf = Shelf()
    polling = ResultPolling(shelf.look)
    long = Background(lambda: polling.wait(["long"], 10.0))
    eventually(lambda: ("long",) in shelf.looks[1:])
    assert polling.wait(["short"], 0.05) == {}
    assert long.running
    shelf.documents["long"] = b"1"
    assert long.result(5.0) == {"long": b"1"}
