"""Connections shared by threads: bounded, with one deadline for everything, and not across a fork."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from prefork.transports.errors import BrokerUnavailable
from prefork.transports.redis.pool import Pool
from prefork.transports.redis.settings import read_settings
from support.ports import free_port
from support.redis_server import RedisServer
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import Background, eventually


@pytest.fixture
def pool(shared_redis: RedisServer) -> Iterator[Pool]:
    pool = pool_of(shared_redis.url, max_connections=3)
    yield pool
    pool.close()


def pool_of(url: str, **options: Any) -> Pool:
    return Pool(read_settings(url, options), name="test pool")


def connections(pool: Pool) -> int:
    with pool.link() as link:
        listed: bytes = link.call("CLIENT", "LIST")
    return listed.count(b"name=test-pool")


def test_one_thread_uses_one_connection(pool: Pool) -> None:
    numbers = set()
    for _ in range(10):
        with pool.link() as link:
            numbers.add(link.call("CLIENT", "ID"))
    assert len(numbers) == 1


def test_a_block_within_a_block_has_a_connection_of_its_own(pool: Pool) -> None:
    with pool.link() as outer, pool.link() as inner:
        assert outer.call("CLIENT", "ID") != inner.call("CLIENT", "ID")


def test_many_threads_share_few_connections_and_no_reply_goes_astray(pool: Pool) -> None:
    def ask(number: int) -> bool:
        with pool.link() as link:
            return bool(
                link.many([("ECHO", number), ("ECHO", number + 1)]) == [b"%d" % number, b"%d" % (number + 1)]
            )

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(ask, range(2000)))
    assert connections(pool) <= 3


def test_when_all_are_in_use_the_wait_ends_with_the_deadline(pool: Pool) -> None:
    with pool.link() as one, pool.link() as two, pool.link() as three:
        assert all(link.call("PING") == b"PONG" for link in (one, two, three))
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="max_connections") as caught, pool.link(0.2):
            raise AssertionError("there is no fourth")
        assert 0.2 <= time.monotonic() - began < 1.0
        assert not caught.value.outcome_unknown


def test_a_connection_that_is_given_back_goes_to_the_one_who_waits(pool: Pool) -> None:
    def wait_for_one() -> float:
        with pool.link(5.0) as link:
            link.call("PING")
        return time.monotonic()

    with pool.link(), pool.link():
        with pool.link():
            waiting = Background(wait_for_one)
            eventually(lambda: pool._waiting == 1)
            given_back = time.monotonic()
        assert waiting.result() - given_back < 1.0


def test_a_lost_link_does_not_shrink_the_pool(pool: Pool) -> None:
    for _ in range(10):
        link = pool.take(time.monotonic() + 1.0)
        link.close()
        del link
    with pool.link() as link:
        assert link.call("PING") == b"PONG"


def test_one_deadline_covers_connecting_and_the_command(shared_redis: RedisServer) -> None:
    # Something is sent before it, wherever the machine stands still.
    deadline_s = 2.0
    with tcp_proxy(shared_redis.port) as proxy:
        pool = pool_of(
            f"redis://127.0.0.1:{proxy.port}/1",
            publish_deadline=deadline_s,
            socket_timeout=60,
            socket_connect_timeout=60,
        )
        proxy.set(Mode.BLACK_HOLE)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught, pool.link() as link:
            link.call("PING")
        assert not caught.value.outcome_unknown  # it did not come further than to log in
        assert deadline_s - 0.05 < time.monotonic() - began < deadline_s + 1.0
        proxy.set(Mode.PASS)
        with pool.link(30.0) as link:
            assert link.call("PING") == b"PONG"
        proxy.set(Mode.BLACK_HOLE)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught, pool.link() as link:
            link.call("PING")
        assert caught.value.outcome_unknown
        assert deadline_s - 0.05 < time.monotonic() - began < deadline_s + 1.0
        pool.close()


def test_several_commands_of_a_block_share_its_deadline(own_redis: RedisServer) -> None:
    pool = pool_of(own_redis.url, publish_deadline=0.6, socket_timeout=60)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable), pool.link() as link:
        for _ in range(10):
            link.call("BLPOP", "nothing", 0.25)
    assert 0.5 < time.monotonic() - began < 1.5
    pool.close()


def test_a_deadline_does_not_outlive_its_block(pool: Pool) -> None:
    with pool.link(0.05) as link:
        time.sleep(0.1)
        with pytest.raises(BrokerUnavailable, match="over"):
            link.call("PING")
    assert link.call("PING") == b"PONG"


def test_nobody_listening_is_known_at_once() -> None:
    pool = pool_of(f"redis://127.0.0.1:{free_port()}/0")
    for _ in range(20):
        with pytest.raises(BrokerUnavailable) as caught, pool.link() as link:
            link.call("PING")
        assert not caught.value.outcome_unknown


def test_after_an_outage_every_connection_works_again(own_redis: RedisServer) -> None:
    pool = pool_of(own_redis.url, max_connections=4)

    def ping(_number: int = 0) -> bytes:
        with pool.link() as link:
            link.call("BLPOP", "nothing", 0.02)
            answer: bytes = link.call("PING")
            return answer

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ping, range(8))) == [b"PONG"] * 8
        own_redis.restart()
        time.sleep(0.05)
        assert list(threads.map(ping, range(8))) == [b"PONG"] * 8
    pool.close()


def test_without_keeping_every_use_has_a_connection_of_its_own(shared_redis: RedisServer) -> None:
    pool = pool_of(shared_redis.url, keep_connections=False)
    numbers = []
    for _ in range(3):
        with pool.link() as link:
            numbers.append(link.call("CLIENT", "ID"))
        assert not link.connected
    assert len(set(numbers)) == 3


def test_closing_lets_those_in_use_finish(pool: Pool) -> None:
    with pool.link() as link:
        link.call("PING")
        pool.close()
        assert link.call("PING") == b"PONG"
    assert not link.connected
    with pool.link() as again:
        assert again.call("PING") == b"PONG"
    assert again.connected


def test_a_child_has_its_own_connections_even_when_the_parent_was_in_the_middle(pool: Pool) -> None:
    with pool.link() as link:
        mine = link.call("CLIENT", "ID")
    reader, writer = os.pipe()
    with pool.link() as held:
        held.call("PING")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with pool.link() as own:
                    os.write(writer, b"%d\n" % own.call("CLIENT", "ID"))
                    own.call("SET", "child", "was here", "EX", 5)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        assert os.waitpid(pid, 0)[1] == 0
        assert held.call("GET", "child") == b"was here"
    assert int(os.read(reader, 100)) != mine
    os.close(reader)
    with pool.link() as link:
        assert link.call("CLIENT", "ID") == mine


def test_a_child_forked_while_other_threads_send_is_not_stuck(pool: Pool, prefix: str) -> None:
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            with pool.link() as link:
                link.call("INCR", prefix + "n")

    threads = [Background(send) for _ in range(5)]
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    with pool.link(2.0) as link:
                        link.call("PING")
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.result()
