"""Retries and snoozes that are asked for while the broker is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.redis_server import RedisServer, running_redis
from support.semantics import OUTSIDE_S, fleet_of
from support.waiting import eventually

SOURCE = """
app = App("away", **SETTINGS)

def until_told(name):
    (ROOT / f"{name}.began").touch()
    while not (ROOT / name).exists():
        time.sleep(0.01)

@app.task(bind=True)
def retries(self, name):
    note(f"{name}.runs", str(self.request.retries))
    if not self.request.retries:
        until_told(name)
        raise self.retry(countdown=0.1)
    return self.request.retries

@app.task(bind=True)
def snoozes(self, name):
    note(f"{name}.runs", str(self.request.snoozes))
    if not self.request.snoozes:
        until_told(name)
        raise Snooze(0.1)
    return self.request.snoozes
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that forgets nothing when it crashes."""
    with running_redis({"appendonly": "yes", "appendfsync": "always"}) as made:
        yield made


def test_what_is_asked_for_while_the_broker_is_away_happens_once_when_it_is_back(
    server: RedisServer, tmp_path: Path
) -> None:
    with fleet_of("redis", "away_project", SOURCE, tmp_path, server=server) as fleet:
        sent = {name: fleet.task(name).delay(name) for name in ("retries", "snoozes")}
        eventually(lambda: all((tmp_path / f"{name}.began").exists() for name in sent), deadline_s=OUTSIDE_S)
        server.kill()
        for name in sent:
            (tmp_path / name).touch()
        fleet.wait_for_log("trying again")
        server.start()
        for name, result in sent.items():
            assert eventually(lambda: result.ready(), deadline_s=OUTSIDE_S)  # noqa: B023
            assert (result.get(timeout=OUTSIDE_S), fleet.notes(f"{name}.runs")) == (1, ["0", "1"])
