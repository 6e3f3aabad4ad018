"""An application in memory, and a child that runs its tasks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.child.main import arm_soft_limit
from support.apps import memory_app
from support.limiter_scene import Ran
from support.one_async_child import Side
from support.one_child import OneChild


@pytest.fixture
def app() -> Iterator[App]:
    """An app with a memory broker that stores results too."""
    with memory_app() as made:
        made.conf.result_backend = made.conf.broker_url
        yield made


@pytest.fixture
def child_of() -> Iterator[Callable[..., OneChild]]:
    """Makes children of an app."""
    made: list[OneChild] = []

    def make(app: App, **options: Any) -> OneChild:
        made.append(OneChild(app, **options))
        return made[-1]

    yield make
    for child in made:
        child.close()


@pytest.fixture
def side_of(app: App, child_of: Callable[..., OneChild]) -> Iterator[Callable[..., Side]]:
    """Makes loops; the signal of soft limits is armed for the last one."""
    before = signal.getsignal(signal.SIGUSR1)

    def make(concurrency: int = 4, **options: Any) -> Side:
        side = Side(app, child_of, concurrency, **options)
        arm_soft_limit(side.child.slot, side.child.parts.driver)
        return side

    yield make
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def ran() -> Ran:
    """What tasks with limits write their numbers to."""
    return Ran()
