"""A site per test, and dice whose seed is shown."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stress_worker import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Broker, ledger and workers; nothing of it is alive afterwards."""
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def dice() -> random.Random:
    """Random numbers; STRESS_SEED repeats a run."""
    seed = int(os.environ.get("STRESS_SEED") or random.SystemRandom().randrange(2**31))
    print(f"STRESS_SEED={seed}")
    return random.Random(seed)
