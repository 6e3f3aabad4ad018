"""Revoking where workers do not listen: remote control is off, or what carries it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.exceptions import TaskRevokedError
from support.semantics import Fleet
from support.waiting import eventually

# Less than `revoker.LOOK_S`, with which it would be found anyway.
WITHIN_S = 15.0

pytestmark = pytest.mark.needs("coordinates")

SOURCE = """
app = App("unheard", **SETTINGS)


@app.task
def held(until):
    note("held", until)
    while not (ROOT / until).exists():
        time.sleep(0.005)


@app.task
def work(name):
    note("ran", name)
    return name
"""


def known(state: Path) -> list[Any]:
    """What the worker knows to be revoked; it writes that down."""
    return list(json.loads(state.read_text())["revoked"]) if state.exists() else []


def test_what_is_revoked_does_not_run_though_the_worker_was_not_told(fleet: Fleet) -> None:
    # Given a worker that does not listen, whose child is busy while another task waits for it,
    state, gate, name = fleet.root / "state", fleet.unique("gate"), fleet.unique()
    fleet.restart(concurrency=1, worker_enable_remote_control=False, worker_state_db=str(state))
    fleet.task("held").delay(gate)
    eventually(lambda: gate in fleet.notes("held"), deadline_s=WITHIN_S)
    waiting = fleet.task("work").delay(name)
    # When that is revoked,
    waiting.revoke()
    # Then the worker finds out soon, and does not run it.
    eventually(lambda: waiting.id in known(state), deadline_s=WITHIN_S)
    (fleet.root / gate).touch()
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=WITHIN_S)
    assert fleet.task("work").delay("after").get(timeout=WITHIN_S) == "after"
    assert name not in fleet.notes("ran")
