"""An application in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefork.engine.app import App
from support.apps import memory_app


@pytest.fixture
def app() -> Iterator[App]:
    """An app with a memory broker of its own."""
    with memory_app() as made:
        yield made
