"""What a server refuses inside a script: understood from every version, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from prefork.transports.base import Depth, Outcome, Outgoing, QueueDeclaration
from prefork.transports.errors import BrokerFull, BrokerUnavailable, TransportError
from prefork.transports.redis import open_transport
from prefork.transports.redis.faults import CommandRefused, ServerError, WrongKeyType, from_reply
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings
from support.redis_server import RedisServer, running_redis
from support.waiting import eventually


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("@user_script: 1: -READONLY You can't write against a read only replica.", BrokerUnavailable),
        (
            "READONLY You can't write against a read only replica. script: 0643, on @user_script:1.",
            BrokerUnavailable,
        ),
        ("{} @user_script: 1: -NOREPLICAS Not enough good replicas to write.", BrokerUnavailable),
        ("{} @user_script: 1: -MISCONF Redis is configured to save RDB snapshots", BrokerUnavailable),
        ("{} @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.", BrokerFull),
        ("{} WRONGTYPE Operation against a key holding the wrong kind of value", WrongKeyType),
        ("{} @user_script: 1: The user executing the script can't run this command", BrokerUnavailable),
        ("ERR ACL failure in script: User app has no permissions to run the 'rpop'", BrokerUnavailable),
        ("CROSSSLOT Keys in request don't hash to the same slot", BrokerUnavailable),
        ("MOVED 3999 127.0.0.1:6381", BrokerUnavailable),
        ("{} user_script:1: attempt to perform arithmetic on a nil value", CommandRefused),
        ("PREFORK WRONGTYPE @user_script: 1: -READONLY", WrongKeyType),
    ],
)
def test_what_a_command_inside_a_script_met_is_understood_from_every_version(
    said: str, kind: type[TransportError]
) -> None:
    said = said.format("ERR Error running script (call to f_064310467e6637629cbd1a01fa): @user_script:12:")
    error = from_reply(ServerError(said), where="here", user="app", command="reserve")
    assert type(error) is kind, error


@pytest.mark.parametrize("host", ["a..b", ".x", "h" * 70])
def test_a_name_that_no_host_can_have_is_an_unreachable_server(host: str) -> None:
    for scheme in ("redis", "rediss"):
        with pytest.raises(BrokerUnavailable, match="label") as refused:
            Link(read_settings(f"{scheme}://{host}/0")).call("PING")
        assert not refused.value.outcome_unknown


def test_of_several_servers_the_primary_is_used_and_no_replica() -> None:
    with running_redis() as primary, running_redis() as replica:
        replica.cli("replicaof", "127.0.0.1", str(primary.port))
        link = Link(read_settings(f"{replica.url};{primary.url}"))
        assert link.call("RPUSH", "k", "v") == 1
        wire = link.connection()
        assert wire.where.endswith(str(primary.port))
        wire.close()
        primary.kill()
        with pytest.raises(BrokerUnavailable, match="it is a replica.*refused"):
            Link(link.settings).call("RPUSH", "k", "v")
        replica.cli("replicaof", "no", "one")
        link.close()
        assert link.call("PING") == b"PONG"
        link.close()


def test_a_cluster_is_said_to_be_unsupported() -> None:
    with running_redis({"cluster-enabled": "yes"}) as server:
        for first in range(0, 16384, 4096):
            server.cli("cluster", "addslots", *map(str, range(first, first + 4096)))
        eventually(lambda: "cluster_state:ok" in server.cli("cluster", "info"))
        transport = open_transport(server.url, {})
        with pytest.raises(BrokerUnavailable, match="Redis Cluster, which is not supported"):
            transport.consumer(["q", "r"], "owner", "worker").reserve(1)
        transport.close()


Trouble = Callable[[bool], object]


@pytest.fixture(params=["READONLY", "NOREPLICAS", "MISCONF"])
def troubled(request: pytest.FixtureRequest) -> Iterator[tuple[RedisServer, str, Trouble]]:
    """A server, the word it says, and what brings it into this state and out of it."""
    with running_redis({"save": "3600 1", "dbfilename": "in-the-way"}) as server:

        def readonly(wrong: bool) -> None:
            # There is no such primary; the data stay.
            server.cli("replicaof", *(("127.0.0.1", "1") if wrong else ("no", "one")))

        def lonely(wrong: bool) -> None:
            server.cli("config", "set", "min-replicas-to-write", "1" if wrong else "0")

        def unsaved(wrong: bool) -> None:
            if wrong:
                (server.directory / "in-the-way" / "file").mkdir(parents=True)
                server.cli("bgsave")
                eventually(lambda: "last_bgsave_status:err" in server.cli("info", "persistence"))
            server.cli("config", "set", "stop-writes-on-bgsave-error", "yes" if wrong else "no")

        word: str = request.param
        yield server, word, {"READONLY": readonly, "NOREPLICAS": lonely, "MISCONF": unsaved}[word]


def test_a_server_that_takes_no_writes_is_unavailable_and_loses_nothing(
    troubled: tuple[RedisServer, str, Trouble],
) -> None:
    server, word, trouble = troubled
    transport = open_transport(server.url, {})
    transport.send([Outgoing("q", b"%d" % number) for number in range(4)])
    consumer = transport.consumer(["q"], "owner", "worker")
    held = consumer.reserve(2)
    trouble(True)
    calls: list[Callable[[], object]] = [
        lambda: consumer.reserve(2),
        lambda: consumer.settle([Outcome(held[0].tag)]),
        lambda: consumer.settle([Outcome(held[0].tag, follow_ups=(Outgoing("q", b"next"),))]),
        lambda: consumer.give_back([held[1].tag]),
        lambda: transport.send([Outgoing("q", b"refused")]),
        lambda: transport.heartbeat("worker", 60.0),
        lambda: transport.recover("owner"),
    ]
    for call in calls:
        with pytest.raises(BrokerUnavailable, match=word) as refused:
            call()
        assert not refused.value.outcome_unknown
    trouble(False)
    assert consumer.settle([Outcome(held[0].tag, follow_ups=(Outgoing("q", b"next"),))]) == [True]
    assert consumer.give_back([held[1].tag]) == 1
    assert transport.depth("q") == Depth(ready=4, delayed=0, in_work=0)
    assert [one.document for one in consumer.reserve(9)] == [b"1", b"2", b"3", b"next"]
    consumer.close()
    transport.close()


@pytest.mark.parametrize("command", ["sadd", "zadd", "publish"])
def test_whoever_lacks_a_right_stores_no_part_of_a_call(command: str) -> None:
    declared = QueueDeclaration("news", exchange="news", exchange_type="fanout")
    messages = [Outgoing("q", b"a"), Outgoing("q", b"b", due_wall_s=4e9)]
    messages += [Outgoing("news", b"c", exchange="news")] * (command == "publish")
    with running_redis(users=[f"app on >word ~* &* +@all -{command}"]) as server:
        operator = open_transport(server.url, {})
        transport = open_transport(
            server.url_of(0, user="app", password="word"), {"declarations": {"news": declared}}
        )
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="NOPERM") as refused:
                transport.send(messages)
            assert not refused.value.outcome_unknown
            assert operator.depth("q").ready == 0
        server.cli("acl", "setuser", "app", f"+{command}")
        transport.send(messages)
        assert operator.depth("q") == Depth(ready=1, delayed=1, in_work=0)
        transport.close()
        operator.close()
