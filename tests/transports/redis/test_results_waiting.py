"""Waiting for results in Redis: one connection for all, nothing kept, and what breaks on the way."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.base import StoredResult
from prefork.transports.errors import ResultStoreUnavailable
from prefork.transports.redis import open_results, result_wait
from prefork.transports.redis.result_channel import LOOK_BYTES
from prefork.transports.redis.result_wait import ResultWait
from prefork.transports.redis.results import RedisResults
from support.calibration import Waits
from support.redis_server import RedisServer
from support.tcp_proxy import Mode, TcpProxy, tcp_proxy
from support.waiting import Background, eventually

SUCCESS = json.dumps({"status": "SUCCESS", "result": 1}).encode()


@pytest.fixture
def stores(own_redis: RedisServer) -> Iterator[Callable[..., RedisResults]]:
    opened: list[RedisResults] = []

    def _open(port: int | None = None, **options: Any) -> RedisResults:
        url = own_redis.url if port is None else f"redis://127.0.0.1:{port}/0"
        opened.append(open_results(url, options))
        return opened[-1]

    yield _open
    for store in opened:
        store.close()


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[TcpProxy]:
    with tcp_proxy(own_redis.port) as made:
        yield made


def subscriptions(server: RedisServer) -> int:
    return len([line for line in server.cli("PUBSUB", "CHANNELS").splitlines() if line.startswith("celery")])


def connections(server: RedisServer) -> int:
    return server.cli("CLIENT", "LIST").count("name=prefork:results")


def put(store: RedisResults, *keys: str) -> None:
    store.store([StoredResult(key, SUCCESS) for key in keys])


def connected(store: RedisResults) -> RedisResults:
    """A store with a connection to wait on: to get one may outlast a short wait, which then fails."""
    put(store, "there")
    assert store.wait(["there"], 10.0)
    return store


def test_nothing_is_kept_of_waits_that_are_over(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store, writer = stores(), stores()
    put(writer, "there")
    store.wait(["there"], 5.0)
    store.wait(["missing"], 0.05)
    store.wait([f"missing{n}" for n in range(1200)], 0.05)
    waiting = Background(lambda: store.wait(["later", *(f"missing{n}" for n in range(50))], 20.0))
    eventually(lambda: subscriptions(own_redis) == 51)
    put(writer, "later")
    assert waiting.result() == {"later": SUCCESS}
    eventually(lambda: subscriptions(own_redis) == 0)
    waits = store._mine().waiting
    assert (waits._waiting, waits._waiters, waits._fresh, waits._leader) == ({}, {}, [], None)


def test_twenty_thousand_results_leave_memory_and_connections_as_they_were(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store, writer = stores(), stores()

    def run(first: int, last: int) -> None:
        for start in range(first, last, 500):
            keys = [str(number) for number in range(start, start + 500)]
            put(writer, *keys[:499])
            for key in keys[:50]:
                assert store.wait([key], 10.0) == {key: SUCCESS}
            assert len(store.wait(keys[50:], 10.0)) == 449
            writer.forget(keys)

    run(0, 2000)
    before = connections(own_redis)
    tracemalloc.start()
    gc.collect()
    bytes_before = tracemalloc.get_traced_memory()[0]
    run(2000, 22_000)
    gc.collect()
    grown_bytes = tracemalloc.get_traced_memory()[0] - bytes_before
    tracemalloc.stop()
    assert grown_bytes < 200_000
    assert connections(own_redis) == before <= 3
    eventually(lambda: subscriptions(own_redis) == 0)
    assert threading.active_count() < 10


def long_document(size: int) -> bytes:
    return json.dumps({"status": "SUCCESS", "result": "x" * size}).encode()


@pytest.mark.parametrize("size", [LOOK_BYTES - 60, LOOK_BYTES, 200_000, 40_000_000])
def test_a_document_of_any_length_ends_the_wait(size: int, stores: Callable[..., RedisResults]) -> None:
    """A server drops subscribers that have more than 32 MB to take."""
    store, writer = stores(), stores()
    document = long_document(size)
    waiting = Background(lambda: store.wait(["x"], 20.0))
    eventually(lambda: store._mine().waiting._waiters)
    writer.store([StoredResult("x", document)])
    assert waiting.result(30.0) == {"x": document}
    assert store.wait(["x"], 5.0) == {"x": document}


def test_many_long_documents_are_not_too_much_at_once(stores: Callable[..., RedisResults]) -> None:
    store, writer = stores(), stores()
    keys = [str(number) for number in range(2500)]
    for key in keys:
        writer.store([StoredResult(key, long_document(20_000))])
    found = store.wait(keys, 20.0)
    assert len(found) == len(keys) and set(map(len, found.values())) == {len(long_document(20_000))}


def test_a_long_document_on_the_way_does_not_end_the_wait(stores: Callable[..., RedisResults]) -> None:
    store, writer = connected(stores()), stores()
    writer.store([StoredResult("x", long_document(20_000).replace(b"SUCCESS", b"STARTED"))])
    assert store.wait(["x"], 0.1) == {}


def test_a_key_that_holds_something_else_is_no_result(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    own_redis.cli("LPUSH", "celery-task-meta-x", "no result")
    store, writer = connected(stores()), stores()
    assert store.wait(["x"], 0.1) == {}
    waiting = Background(lambda: store.wait(["x", "y"], 20.0))
    eventually(lambda: subscriptions(own_redis) == 2)
    put(writer, "x")
    assert waiting.result() == {"x": SUCCESS}


def test_waiting_works_over_tls_and_over_a_socket(certificates: Path) -> None:
    for server in (RedisServer(tls=certificates), RedisServer(unix=True)):
        store, writer = open_results(server.url, {}), open_results(server.url, {})
        waiting = [Background(lambda s=store, key=str(n): s.wait([key], 20.0)) for n in range(5)]
        eventually(lambda s=store: len(s._mine().waiting._waiters) == 5)
        put(writer, *(str(number) for number in range(4)))
        writer.store([StoredResult("4", long_document(300_000))])
        assert [one.result()[str(n)] for n, one in enumerate(waiting)] == [SUCCESS] * 4 + [
            long_document(300_000)
        ]
        store.close()
        writer.close()
        server.close()


def test_all_threads_share_one_connection(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store, writer = stores(), stores()
    put(writer, "first")
    waiting = [Background(lambda key=str(n): store.wait([key, "never"], 20.0)) for n in range(30)]
    eventually(lambda: subscriptions(own_redis) == 31)
    assert connections(own_redis) == 2
    for number in range(30):
        put(writer, str(number))
        assert waiting[number].result() == {str(number): SUCCESS}
    eventually(lambda: subscriptions(own_redis) == 0)


def test_two_who_wait_for_the_same_are_both_told(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store, writer = connected(stores()), stores()
    waiting = [Background(lambda: store.wait(["x"], 20.0)) for _ in range(2)]
    short = Background(lambda: store.wait(["x"], 0.05))
    assert short.result() == {}
    eventually(lambda: len(store._mine().waiting._waiters) == 2)
    put(writer, "x")
    assert [one.result() for one in waiting] == [{"x": SUCCESS}] * 2


def test_the_time_is_kept_by_those_who_lead_and_those_who_do_not(stores: Callable[..., RedisResults]) -> None:
    store = connected(stores())

    def timed(timeout_s: float) -> float:
        began_mono_s = time.monotonic()
        assert store.wait(["never"], timeout_s) == {}
        return time.monotonic() - began_mono_s

    waits = Waits()
    waiting = [(limit_s, Background(lambda s=limit_s: timed(s))) for limit_s in (0.6, 0.1, 0.3, 1.4, 0.2)]
    for limit_s, one in waiting:
        assert limit_s <= one.result() < limit_s + 0.5, waits.so_far_s


@pytest.mark.parametrize("mode", [Mode.RESET, Mode.CUT_IN_REPLY])
def test_a_connection_that_breaks_is_replaced_and_what_was_missed_is_read(
    mode: Mode, proxy: TcpProxy, stores: Callable[..., RedisResults], own_redis: RedisServer
) -> None:
    store, writer = stores(proxy.port), stores()
    waiting = Background(lambda: store.wait(["x"], 20.0))
    eventually(lambda: subscriptions(own_redis) == 1)
    proxy.set(mode)
    put(writer, "x")
    eventually(lambda: proxy.hits[mode.value] >= 2)
    proxy.set(Mode.PASS)
    assert waiting.result() == {"x": SUCCESS}


@pytest.mark.parametrize("mode", [Mode.BLACK_HOLE, Mode.HALF_OPEN])
def test_a_connection_that_is_only_half_there_is_found_within_seconds(
    mode: Mode, proxy: TcpProxy, stores: Callable[..., RedisResults], own_redis: RedisServer
) -> None:
    store, writer = stores(proxy.port, socket_timeout=1.0), stores()
    waiting = Background(lambda: store.wait(["x"], 30.0))
    eventually(lambda: subscriptions(own_redis) == 1)
    proxy.set(mode)
    began_mono_s = time.monotonic()
    put(writer, "x")
    eventually(lambda: proxy.hits["connections"] >= 2)
    proxy.set(Mode.PASS)
    assert waiting.result(15.0) == {"x": SUCCESS}
    assert time.monotonic() - began_mono_s < 8.0


def test_byte_by_byte_and_slowly_is_still_an_answer(
    proxy: TcpProxy, stores: Callable[..., RedisResults]
) -> None:
    store, writer = stores(proxy.port), stores()
    proxy.set(Mode.ONE_BYTE)
    waiting = Background(lambda: store.wait(["x"], 20.0))
    put(writer, "x")
    assert waiting.result() == {"x": SUCCESS}


def test_waiting_outlasts_a_restart_of_the_server(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store = stores()
    waiting = [Background(lambda: store.wait(["x"], 30.0)) for _ in range(3)]
    eventually(lambda: subscriptions(own_redis) == 1)
    own_redis.restart()
    put(stores(), "x")
    assert [one.result(20.0) for one in waiting] == [{"x": SUCCESS}] * 3


def test_a_server_that_stays_away_is_an_error_and_not_a_missing_result(
    own_redis: RedisServer, stores: Callable[..., RedisResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_wait, "OUTAGE_S", 0.3)
    store = stores()
    waiting = [Background(lambda: store.wait(["x"], None)) for _ in range(3)]
    eventually(lambda: subscriptions(own_redis) == 1)
    own_redis.kill()
    for one in waiting:
        with pytest.raises(ResultStoreUnavailable, match="cannot be waited for"):
            one.result(20.0)
    with pytest.raises(ResultStoreUnavailable):
        store.wait(["x"], 0.1)
    with pytest.raises(ResultStoreUnavailable):
        store.wait(["x"], 0.0)
    own_redis.start()
    put(stores(), "x")
    assert store.wait(["x"], 5.0) == {"x": SUCCESS}


def test_a_wrong_password_is_told_in_time(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_wait, "FIRST_OUTAGE_S", 0.2)
    store = open_results(own_redis.url.replace("redis://", "redis://nobody:secret@"), {})
    with pytest.raises(ResultStoreUnavailable) as raised:
        store.wait(["x"], None)
    assert "secret" not in str(raised.value)
    store.close()


class TimeIsUp(Exception):
    """As a soft time limit raises it, anywhere."""


def test_an_exception_in_the_leader_costs_the_others_nothing(stores: Callable[..., RedisResults]) -> None:
    store, writer = stores(), stores()
    waits = store._mine().waiting
    opened = waits._connect

    def strikes(end_mono_s: float | None) -> Any:
        waits._connect = opened
        raise TimeIsUp

    waits._connect = strikes
    with pytest.raises(TimeIsUp):
        store.wait(["x"], 5.0)
    waiting = Background(lambda: store.wait(["x"], 20.0))
    put(writer, "x")
    assert waiting.result() == {"x": SUCCESS}


@pytest.mark.parametrize("same_thread", [True, False])
def test_a_leader_that_could_not_hand_over_is_replaced(
    same_thread: bool, stores: Callable[..., RedisResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_wait, "_LEAVING_S", 0.2)
    store, writer = stores(), stores()

    def struck(_self: ResultWait) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(result_wait, "_LEAVING_S", 0.2)
        raise TimeIsUp

    monkeypatch.setattr(ResultWait, "_hand_over", struck)
    with pytest.raises(TimeIsUp):
        store.wait(["y"], 0.01)
    put(writer, "x")
    if same_thread:
        assert store.wait(["x"], 5.0) == {"x": SUCCESS}
    else:
        assert Background(lambda: store.wait(["x"], 20.0)).result() == {"x": SUCCESS}


def test_closing_while_somebody_waits_closes_when_he_is_done(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store, writer = stores(), stores()
    waiting = Background(lambda: store.wait(["x"], 20.0))
    eventually(lambda: subscriptions(own_redis) == 1)
    store.close()
    put(writer, "x")
    assert waiting.result() == {"x": SUCCESS}
    eventually(lambda: connections(own_redis) == 1)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert store.wait(["x"], 5.0) == {"x": SUCCESS}
    store.close()
    store.close()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.soak
def test_a_million_results_leave_memory_and_connections_as_they_were(
    own_redis: RedisServer, stores: Callable[..., RedisResults]
) -> None:
    store, writer = stores(), stores()
    grown: list[int] = []
    tracemalloc.start()
    for start in range(0, 1_000_000, 500):
        keys = [str(number) for number in range(start, start + 500)]
        waiting = Background(lambda keys=keys: store.wait([keys[-1]], 60.0))
        put(writer, *keys)
        assert waiting.result(60.0) == {keys[-1]: SUCCESS}
        assert len(store.wait(keys, 60.0)) == 500
        writer.forget(keys)
        if start % 100_000 == 0:
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert grown[-1] - grown[1] < 200_000
    assert connections(own_redis) <= 3
