"""Stores in a file of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefork.transports.base import ResultStore
from prefork.transports.database import open_results


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the database."""
    return tmp_path / "results.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., ResultStore]]:
    """Opens stores in that file, with options."""
    opened: list[ResultStore] = []

    def _open(**options: object) -> ResultStore:
        opened.append(open_results(f"db+sqlite:///{path}", options))
        return opened[-1]

    yield _open
    for store in opened:
        store.close()
