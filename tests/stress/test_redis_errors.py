"""Everything that a Redis server can refuse with, below a worker at work (fault test 19, I26, I32)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from prefork.transports.errors import BrokerFull
from support.calibration import allowance_s
from support.ledger import check
from support.redis_server import RedisServer
from support.redis_stress import RedisSite, redis_site
from support.stress_worker import QUEUE, StressWorker
from support.waiting import Background, eventually

BACK_S = 5.0
STATE_S = 1.2
LINES_PER_S = 12
LEASE = {"worker_lease": 4.0, "worker_lease_renew_interval": 1.0}
CONFIG = {
    "enable-debug-command": "yes",
    "enable-protected-configs": "yes",
    "stop-writes-on-bgsave-error": "yes",
    "dbfilename": "in-the-way",
    "loading-process-events-interval-bytes": 1024,
}


class Trouble(NamedTuple):
    """A state of the server, how it comes and how it goes.

    :param word: that the log must say; empty when nobody needs to notice.
    :param forgets: whether what waited is gone with it.
    """

    name: str
    come: Callable[[RedisServer], object]
    go: Callable[[RedisServer], object]
    word: str = ""
    forgets: bool = False


def _misconf(server: RedisServer) -> None:
    (server.directory / "in-the-way").mkdir()
    server.cli("CONFIG", "SET", "save", "3600 1")
    server.cli("BGSAVE")
    eventually(lambda: "rdb_last_bgsave_status:err" in server.cli("INFO", "persistence"))


def _saves_again(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "save", "")
    (server.directory / "in-the-way").rmdir()
    server.cli("BGSAVE")
    eventually(lambda: "rdb_last_bgsave_status:ok" in server.cli("INFO", "persistence"))


def _load(server: RedisServer) -> None:
    """Read a data set for a while; it is as long as there are keys."""
    server.cli("DEBUG", "POPULATE", "100", "bulk", "100")
    server.cli("CONFIG", "SET", "key-load-delay", str(int(STATE_S * 10_000)))
    Background(lambda: server.cli("DEBUG", "RELOAD"))
    eventually(lambda: "LOADING" in server.cli("GET", "bulk:0"), every_s=0.02)


def _loaded(server: RedisServer) -> None:
    eventually(lambda: "LOADING" not in server.cli("GET", "bulk:0"), deadline_s=20.0)
    server.cli("CONFIG", "SET", "key-load-delay", "0")


def _rotate(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "requirepass", "new-secret")
    server.password = "new-secret"
    server.cli("CLIENT", "KILL", "TYPE", "normal")


def _rotate_back(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "requirepass", "")
    server.password = None


def _ask(*command: str) -> Callable[[RedisServer], object]:
    return lambda server: server.cli(*command)


def _nothing(server: RedisServer) -> None:
    """It is over by itself."""


TROUBLES = (
    Trouble("no script", _ask("SCRIPT", "FLUSH"), _ask("SCRIPT", "FLUSH")),
    Trouble("reset", _ask("CLIENT", "KILL", "TYPE", "normal"), _nothing),
    Trouble("read only", _ask("REPLICAOF", "127.0.0.1", "1"), _ask("REPLICAOF", "NO", "ONE"), "READONLY"),
    Trouble("misconf", _misconf, _saves_again, "MISCONF"),
    Trouble(
        "acl",
        _ask("ACL", "SETUSER", "default", "-evalsha", "-eval"),
        _ask("ACL", "SETUSER", "default", "+@all"),
        "NOPERM",
    ),
    Trouble("password", _rotate, _rotate_back, "NOAUTH"),
    Trouble("loading", _load, _loaded, "LOADING"),
    Trouble("flushed", _ask("FLUSHALL"), _nothing, forgets=True),
)


def go_through(site: RedisSite, worker: StressWorker, trouble: Trouble) -> str:
    """One state under load: nothing is lost by it, and work goes on soon after."""
    before = worker.stats()
    offset = len(worker.log)
    during = [site.send("work", 0.02) for _ in range(40)]
    eventually(lambda: site.ledger.read().finished & set(during))
    trouble.come(site.server)
    begun_s = time.monotonic()
    eventually(lambda: time.monotonic() - begun_s > STATE_S, deadline_s=STATE_S + 5.0)
    trouble.go(site.server)
    lines = worker.log[offset:].splitlines()
    back_s = site.consumes(BACK_S + 5.0)
    if not trouble.forgets:
        site.finished(20.0, during)
    said = [line for line in lines if "Task " not in line]
    after = worker.stats()
    assert after["pid"] == before["pid"]
    assert back_s < BACK_S
    assert len(said) <= LINES_PER_S * (time.monotonic() - begun_s), said
    assert trouble.word in worker.log[offset:], worker.log[offset:]
    deaths = sum(after["deaths"].values()) - sum(before["deaths"].values())
    return f"{trouble.name}: consuming {back_s:.2f} s after, {len(said)} lines, {deaths} children replaced"


@pytest.mark.timeout(150)
def test_no_refusal_of_the_server_ends_a_worker_or_loses_a_message(tmp_path: Path) -> None:
    with redis_site(tmp_path, CONFIG) as site:
        worker = site.worker(concurrency=2, **LEASE).start()
        for trouble in TROUBLES:
            print(go_through(site, worker, trouble))
        found = check([], site.ledger.executions())
        assert (found.unexplained, found.overlaps, found.vanished) == ([], [], [])
        assert "new-secret" not in worker.log
        assert worker.stop() == 0


def test_a_full_server_is_drained_results_included_and_takes_nothing_new(tmp_path: Path) -> None:
    with redis_site(tmp_path, CONFIG) as site:
        ids = [site.send("timed" if number % 2 else "work", 0.005) for number in range(400)]
        worker = site.worker(concurrency=2, **LEASE).start()
        site.server.cli("CONFIG", "SET", "maxmemory", "1")
        refused_at = len(site.ledger.read().finished)
        with pytest.raises(BrokerFull):
            site.app.send_task("work", retry=False)
        site.finished(30.0, ids)
        assert all(site.result(task_id) == "done" for number, task_id in enumerate(ids) if number % 2)
        print(f"refused with {refused_at} of {len(ids)} done, drained all the same")
        assert refused_at < len(ids)
        site.server.cli("CONFIG", "SET", "maxmemory", "0")
        assert site.consumes(BACK_S) < BACK_S
        found = check(site.accepted, site.ledger.executions())
        assert found.clean, found
        assert found.duplicates == 0
        assert worker.stats()["deaths"] == {}
        assert worker.stop() == 0


def test_a_spoiled_queue_takes_less_than_a_tenth_from_another(tmp_path: Path) -> None:
    with redis_site(tmp_path) as site:
        worker = site.worker(concurrency=2, task_queues=[QUEUE, "spoiled"], **LEASE).start()

        def took_s() -> float:
            begun_s = time.monotonic()
            site.finished(60.0, [site.send("work", 0.01) for _ in range(300)])
            return time.monotonic() - begun_s

        took_s()  # the first are slower: nothing is known of the task yet
        whole_s = [took_s()]
        site.server.cli("SET", "spoiled", "somebody else's")
        offset = len(worker.log)
        spoiled_s = [took_s(), took_s()]
        said = [line for line in worker.log[offset:].splitlines() if "spoiled" in line]
        site.server.cli("DEL", "spoiled")
        whole_s.append(took_s())
        ratio = sum(whole_s) / sum(spoiled_s)
        print(f"{ratio:.1%} of the throughput beside a spoiled queue; {len(said)} lines")
        assert ratio > 0.9 - allowance_s(0.0, 0.1)
        assert 1 <= len(said) <= 8, said
        other = site.send("work", 0.0, queue="spoiled")
        assert site.started(other)
        assert worker.stats()["deaths"] == {}
        assert worker.stop() == 0
