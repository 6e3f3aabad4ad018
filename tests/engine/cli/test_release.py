"""`prefork release`: hands back, waits for the dead, refuses beside the living."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.cli import release
from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main
from prefork.transports.base import Capabilities, Released
from prefork.transports.errors import LeasesHeld


class Broker:
    """A transport that hands back, with leases that end when a list of answers says so."""

    def __init__(self) -> None:
        self.leases_seen: list[dict[str, float]] = []
        self.calls: list[tuple[str | None, bool]] = []
        self.done = Released(delayed=3, recorded=2, held=1)
        self.refuses = False
        self.capabilities = Capabilities(name="double")

    def queues(self) -> list[str]:
        return []

    def leases(self, queue: str | None = None) -> dict[str, float]:
        return self.leases_seen.pop(0) if self.leases_seen else {}

    def release(self, queue: str | None = None, *, force: bool = False) -> Released:
        self.calls.append((queue, force))
        if self.refuses:
            raise LeasesHeld({"w": 12.0})
        return self.done

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    made = Broker()
    monkeypatch.setattr(release, "transport_of", lambda app: made)
    monkeypatch.setattr(release.time, "sleep", lambda pause_s: None)
    yield made


def run(*line: str) -> int:
    return main(["-b", "memory://cli-release", "release", *line])


def test_everything_is_released_unless_queues_are_named(broker: Broker, capsys: Any) -> None:
    assert run() == ExitCode.OK
    assert run("-Q", "a, b") == ExitCode.OK
    assert broker.calls == [(None, False), ("a", False), ("b", False)]
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [
        "3 delayed, 2 put off, 0 limited, 1 in work: released",
        "a: 3 delayed, 2 put off, 0 limited, 1 in work: released",
    ]


def test_it_waits_for_the_leases_of_dead_workers(broker: Broker, capsys: Any) -> None:
    broker.leases_seen = [{"w": 1.0}, {"w": 0.5}, {"w": 0.1}]
    assert run() == ExitCode.OK
    assert capsys.readouterr().err.count("waiting 1 s for its lease") == 1


def test_a_worker_that_renews_its_lease_forbids_it(broker: Broker, capsys: Any) -> None:
    broker.leases_seen = [{"w": 10.0}, {"w": 10.0}, {"w": 15.0}]
    assert run() == ExitCode.FAILED
    assert broker.calls == []
    assert "worker w lives" in capsys.readouterr().err


def test_a_worker_that_comes_meanwhile_forbids_it(broker: Broker, capsys: Any) -> None:
    broker.refuses = True
    assert run() == ExitCode.FAILED
    assert "w (12 s)" in capsys.readouterr().err


def test_force_asks_for_no_leases(broker: Broker) -> None:
    broker.leases_seen = [{"w": 10.0}]
    assert run("-f") == ExitCode.OK
    assert broker.calls == [(None, True)]
    assert len(broker.leases_seen) == 1


def test_problems_are_said_and_fail_the_command(broker: Broker, capsys: Any) -> None:
    broker.done = Released(problems=("2 damaged entries",))
    assert run() == ExitCode.FAILED
    assert "2 damaged entries" in capsys.readouterr().err


def test_a_broker_of_ours_alone_has_nothing_to_release(tmp_path: Path, capsys: Any) -> None:
    assert main(["-b", f"filesystem://{tmp_path}/broker", "release"]) == ExitCode.OK
    assert "nothing to release" in capsys.readouterr().out
