"""Sentinels lead to the primary, before and after a failover, or say why they cannot."""

from __future__ import annotations

import time
from typing import Any

import pytest

from prefork.transports.errors import BrokerUnavailable
from support.ports import free_port
from support.redis_links import AT_ONCE, link_to, refused
from support.redis_server import RedisServer, running_redis
from support.resp_server import resp_server
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("links_closed_afterwards")


def sentinel_config(primary: RedisServer, *more: str) -> dict[str, Any]:
    return {
        "sentinel": [
            f"monitor main 127.0.0.1 {primary.port} 1",
            "down-after-milliseconds main 60000",  # a primary that only stands still stays what it is
            "failover-timeout main 3000",
            *more,
        ]
    }


def test_sentinels_lead_to_the_primary_and_after_a_failover_to_the_next() -> None:
    with (
        running_redis(AT_ONCE) as primary,
        running_redis({"replicaof": f"127.0.0.1 {primary.port}"}) as replica,
    ):
        eventually(lambda: "master_link_status:up" in replica.cli("info", "replication"))
        with running_redis(sentinel_config(primary), kind="sentinel") as sentinel:
            url = f"sentinel://127.0.0.1:{free_port()}/0;sentinel://127.0.0.1:{sentinel.port}/0"
            link = link_to(url, master_name="main")
            assert link.call("RPUSH", "k", "v") == 1
            eventually(
                lambda: f"port={replica.port}" in sentinel.cli("info") or "slaves=1" in sentinel.cli("info")
            )
            eventually(lambda: replica.cli("llen", "k") == "1")
            primary.kill()
            assert sentinel.cli("sentinel", "set", "main", "down-after-milliseconds", "400") == "OK"

            def pushed() -> bool:
                try:
                    return bool(link.call("RPUSH", "k", "w") == 2)
                except BrokerUnavailable:
                    time.sleep(0.05)
                    return False

            eventually(pushed, deadline_s=30.0)
            assert replica.cli("lrange", "k", "0", "-1").split() == ["v", "w"]
            link.close()


def test_sentinels_that_cannot_help_are_unavailability(own_redis: RedisServer) -> None:
    config = sentinel_config(own_redis)
    with running_redis({**config, "requirepass": "s-secret"}, kind="sentinel") as sentinel:
        url = f"sentinel://127.0.0.1:{sentinel.port}/0"
        right = {"password": "s-secret"}
        assert "NOAUTH" in str(refused(link_to(url, master_name="main"), "PING"))
        unknown = link_to(url, master_name="other", sentinel_kwargs=right)
        assert "no primary of 'other'" in str(refused(unknown, "PING"))
        lonely = link_to(url, master_name="main", min_other_sentinels=2, sentinel_kwargs=right)
        assert "only 0 others" in str(refused(lonely, "PING"))
        link = link_to(url, master_name="main", sentinel_kwargs=right)
        assert link.call("PING") == b"PONG"
        link.close()
        wrong = refused(link_to(url, master_name="main", sentinel_kwargs={"password": "x-secret"}), "PING")
        assert "secret" not in str(wrong)


def test_a_server_that_sentinels_name_too_early_is_not_used() -> None:
    def replica(command: list[bytes]) -> bytes:
        return b"*1\r\n$5\r\nslave\r\n" if command[0] == b"ROLE" else b"+OK\r\n"

    with resp_server(replica) as server:
        place = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(server.port)), server.port)
        with resp_server(lambda command: place) as sentinel:
            link = link_to(f"sentinel://127.0.0.1:{sentinel.port}/0", master_name="main")
            assert "not the primary yet" in str(refused(link, "PING"))
