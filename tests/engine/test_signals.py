from __future__ import annotations

import gc
import logging
from functools import partial
from typing import Any
from unittest.mock import Mock

import celery.signals
import pytest

from prefork.engine import signals
from prefork.engine.signals import Signal
from support.apps import memory_app


def test_every_signal_that_users_connect_to_exists() -> None:
    missing = [
        name for name in celery.signals.__all__ if not isinstance(getattr(signals, name, None), Signal)
    ]
    assert missing == []


def test_a_receiver_is_told_and_its_answer_returned() -> None:
    signal = Signal("s")
    seen: list[Any] = []

    @signal.connect
    def receiver(sender: Any, signal: Any, value: int, **_: Any) -> str:
        seen.append((sender, value))
        return "answer"

    assert signal.send("me", value=3) == [(receiver, "answer")]
    assert seen == [("me", 3)]


def test_only_signals_of_the_sender_asked_for_arrive() -> None:
    signal = Signal("s")
    seen: list[Any] = []

    @signal.connect(sender="proj.add")
    def receiver(sender: Any, **_: Any) -> None:
        seen.append(sender)

    signal.send("proj.other")
    signal.send("proj.add")
    assert seen == ["proj.add"]
    assert signal.has_listeners("proj.add")
    assert not signal.has_listeners("proj.other")


def test_a_task_as_sender_is_the_same_as_its_name() -> None:
    signal = Signal("s")
    seen: list[Any] = []

    def receiver(sender: Any, **_: Any) -> None:
        seen.append(sender)

    with memory_app() as app:
        task = app.task(name="proj.add")(lambda: None)
        signal.connect(receiver, sender=task)
        signal.send("proj.add")
        signal.send(task)
    assert seen == ["proj.add", task]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_receiver_that_raises_is_logged_and_the_others_are_told(
    caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    signal = Signal("task_s")
    seen: list[int] = []

    def bad(**_: Any) -> None:
        raise kind("bad receiver")

    def good(**_: Any) -> None:
        seen.append(1)

    signal.connect(bad)
    signal.connect(good)
    with caplog.at_level(logging.ERROR):
        answers = signal.send(None)
    assert seen == [1]
    assert isinstance(answers[0][1], kind)
    assert "bad receiver" in caplog.text


def test_a_receiver_of_a_signal_of_workers_may_end_its_process() -> None:
    def leaves(**_: Any) -> None:
        raise SystemExit(3)

    signal = Signal("worker_s")
    signal.connect(leaves)
    with pytest.raises(SystemExit):
        signal.send(None)


def test_a_collected_receiver_is_forgotten() -> None:
    signal = Signal("s")

    class Owner:
        def receive(self, **_: Any) -> None:
            raise AssertionError("collected objects hear nothing")

    owner = Owner()
    signal.connect(owner.receive)
    assert signal.has_listeners()
    del owner
    gc.collect()
    assert not signal.has_listeners()
    assert signal.send(None) == []


def test_a_strong_receiver_lives_on() -> None:
    signal = Signal("s")
    seen: list[int] = []
    signal.connect(lambda **_: seen.append(1), weak=False)
    gc.collect()
    signal.send(None)
    assert seen == [1]


def test_a_uid_connects_once_and_disconnects() -> None:
    signal = Signal("s")
    seen: list[int] = []

    def one(**_: Any) -> None:
        seen.append(1)

    def two(**_: Any) -> None:
        seen.append(2)

    signal.connect(one, dispatch_uid="u")
    signal.connect(two, dispatch_uid="u")
    signal.send(None)
    assert seen == [1]
    assert signal.disconnect(dispatch_uid="u")
    assert not signal.disconnect(dispatch_uid="u")
    assert signal.send(None) == []


def test_disconnecting_needs_the_same_receiver_and_sender() -> None:
    signal = Signal("s")

    def receiver(**_: Any) -> None: ...

    signal.connect(receiver, sender="a")
    assert not signal.disconnect(receiver)
    assert signal.disconnect(receiver, sender="a")


def test_what_nobody_would_await_is_refused() -> None:
    class Receiver:
        async def __call__(self, **_: Any) -> None:
            """Never awaited."""

        async def method(self, **_: Any) -> None:
            """Never awaited."""

    one = Receiver()
    signal = Signal("s")
    for receiver in (one, one.method):
        with pytest.raises(TypeError, match="must be a plain function"):
            signal.connect(receiver)
    with pytest.raises(TypeError, match="must be a plain function"):

        @signal.connect(sender="x")
        async def told(**_: Any) -> None:
            """Never awaited."""

    assert signal.receivers == ()


def test_a_receiver_that_would_fail_at_every_send_is_refused() -> None:
    signal = Signal("s")

    def exact(sender: Any, value: int) -> None:
        """Takes today's arguments only."""

    def positional(*args: Any) -> None:
        """Takes no names."""

    class Listener:
        def told(self, sender: Any) -> None:
            """Takes one argument."""

    for receiver in (exact, positional, lambda: None, Listener().told, partial(exact, value=1)):
        with pytest.raises(ValueError, match=r"a receiver of 's' must take \*\*kwargs, which .* does not"):
            signal.connect(receiver, weak=False)
        with pytest.raises(ValueError, match=r"must take \*\*kwargs"):
            signal.connect(sender="t")(receiver)
    assert signal.receivers == ()


def test_a_receiver_that_takes_any_keyword_is_accepted_whatever_it_is() -> None:
    signal = Signal("s")

    def named(sender: Any, **_: Any) -> None:
        """A function."""

    class Listener:
        def __call__(self, **_: Any) -> None:
            """An instance."""

        def told(self, sender: Any, **_: Any) -> None:
            """A method."""

    kept = Listener()
    for receiver in (named, kept, kept.told, partial(named, more=1), lambda **_: None, Mock(), dict):
        signal.connect(receiver, weak=False)
    assert len(signal.receivers) == 7


def test_what_is_not_callable_is_refused() -> None:
    with pytest.raises(TypeError, match="must be callable"):
        Signal("s").connect(3)  # type: ignore[call-overload]


def test_repr_counts_the_receivers() -> None:
    assert repr(Signal("name")) == "<Signal: name, 0 receivers>"
