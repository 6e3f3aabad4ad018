"""The storm itself: it ends by saying what happened where nobody is left to kill."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from support.storms import storm
from support.stress_worker import Site
from support.waiting import eventually


def test_a_storm_over_a_worker_that_replaces_nobody_ends_with_its_log(
    tmp_path: Path, dice: random.Random, request: pytest.FixtureRequest
) -> None:
    site = Site(tmp_path)
    request.addfinalizer(site.close)
    worker = site.worker(concurrency=2).start()
    eventually(lambda: "w0@stress is ready" in worker.log)
    worker.signal(signal.SIGSTOP)
    said = r"no child ran a task for 1\.0 s, after 2 of 3 kills(.|\n)*w0@stress is ready"
    with pytest.raises(AssertionError, match=said):
        storm(site, dice, 3, left=10, every_s=(0.01, 0.02), nobody_s=1.0)
