"""One fake worker per test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.supervised import Supervised


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """Makes workers that leave nothing alive."""
    made: list[Supervised] = []

    def make(spec: dict[str, Any] | None = None, **settings: Any) -> Supervised:
        directory = tmp_path / f"worker-{len(made)}"
        directory.mkdir()
        made.append(Supervised(directory, spec, **settings))
        return made[-1]

    yield make
    for supervised in made:
        supervised.__exit__()


@pytest.fixture
def worker(supervise: Callable[..., Supervised]) -> Supervised:
    """A worker with two children, not started yet."""
    return supervise(concurrency=2)
