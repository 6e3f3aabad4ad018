"""An application in memory, and the current one put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefork.engine.app import App
from prefork.engine.local import apps
from support.apps import memory_app


@pytest.fixture
def app() -> Iterator[App]:
    """An app with a memory broker of its own."""
    with memory_app() as made:
        yield made


@pytest.fixture
def current_app_is_put_back() -> Iterator[None]:
    """Which app is current, and which one is the default, is as before when the test has ended."""
    before = (apps.current, apps.default)
    yield
    apps.current, apps.default = before
