"""What a server in trouble answers, and what becomes of it, with real servers and with stubs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.errors import BrokerFull, BrokerUnavailable, TransportError
from prefork.transports.redis.faults import (
    CommandRefused,
    ServerError,
    WrongKeyType,
    from_reply,
    pause_before_reconnect_s,
)
from prefork.transports.redis.link import script
from support.ports import free_port
from support.redis_links import AT_ONCE, link_to, refused
from support.redis_server import RedisServer, running_redis
from support.resp_server import resp_server
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("links_closed_afterwards")


PUSH = script("push", b"redis.call('RPUSH', KEYS[1], ARGV[1]) return 1")


# -- error replies -----------------------------------------------------------------------------

STATES = {
    "LOADING Redis is loading the dataset in memory": "loads its data",
    "READONLY You can't write against a read only replica.": "failover",
    "MASTERDOWN Link with MASTER is down": "lost its primary",
    "MISCONF Redis is configured to save RDB snapshots": "cannot save",
    "NOREPLICAS Not enough good replicas to write.": "too few replicas",
    "CLUSTERDOWN The cluster is down": "cluster",
    "TRYAGAIN Multiple keys request during rehashing": "cluster",
    "BUSY Redis is busy running a script.": "busy with a script",
    "NOAUTH Authentication required.": "password",
    "WRONGPASS invalid username-password pair": "do not belong together",
    "NOPERM this user has no permissions to run the 'lpush' command": "ACL SETUSER",
    "ERR max number of clients reached": "maxclients",
    "ERR AUTH <password> called without any password configured": "correct user name",
    "UNBLOCKED force unblock from blocking operation": "ended by the server",
}


@pytest.mark.parametrize("said", STATES)
def test_a_state_of_the_server_is_unavailability_with_a_remedy(said: str) -> None:
    def answer(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if command[0] == b"CLIENT" else b"-" + said.encode() + b"\r\n"

    with resp_server(answer) as server:
        link = link_to(server.url)
        error = refused(link, "LPUSH", "k", "v")
        assert type(error) is BrokerUnavailable
        assert not error.outcome_unknown
        assert STATES[said] in str(error)
        assert "LPUSH" in str(error)
        link.close()


@pytest.mark.parametrize("word", ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"])
def test_after_such_an_answer_the_next_call_connects_anew(word: str) -> None:
    states = [f"-{word} no\r\n".encode(), b"+PONG\r\n"]

    def answer(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if command[0] == b"CLIENT" else states.pop(0)

    with resp_server(answer) as server:
        link = link_to(server.url)
        assert isinstance(refused(link, "PING"), BrokerUnavailable)
        assert link.call("PING") == b"PONG"
        assert server.connections == 2
        link.close()


def test_an_answer_of_no_known_kind_is_a_refusal_with_its_word() -> None:
    error = from_reply(ServerError("STRANGE things"), where="here", user=None, command="GET")
    assert isinstance(error, CommandRefused)
    assert (error.word, str(error)) == ("STRANGE", "redis at here refused GET: STRANGE things")
    assert ServerError().text == ""


@given(st.text())
def test_every_error_reply_becomes_an_error_of_the_port(text: str) -> None:
    error = from_reply(ServerError(text), where="here", user="u", command="GET")
    assert isinstance(error, TransportError)
    assert "here" in str(error)


@given(st.integers(min_value=0, max_value=10_000), st.floats(min_value=0, max_value=1))
def test_pauses_grow_spread_and_stay_below_the_cap(failed: int, jitter: float) -> None:
    pause_s = pause_before_reconnect_s(failed, jitter)
    assert 0.0 <= pause_s <= 1.0
    assert (pause_s == 0.0) == (failed == 0)
    assert pause_before_reconnect_s(failed, 0.0) <= pause_s <= pause_before_reconnect_s(failed, 1.0)
    assert pause_before_reconnect_s(failed + 1, jitter) >= pause_s


# -- a real server in trouble ------------------------------------------------------------------


def test_a_full_server_is_full_and_can_be_drained() -> None:
    with running_redis({"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as server:
        link = link_to(server.url)
        errors = []
        for _ in range(300):
            try:
                link.call("RPUSH", "k", "x" * 20_000)
            except TransportError as error:
                errors.append(error)
                break
        assert isinstance(errors[0], BrokerFull)
        assert not errors[0].outcome_unknown
        assert "maxmemory" in str(errors[0])
        # The refused value itself counted, in the buffer it came in: without it there may be room again.
        link.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerFull):
            link.run(PUSH, ["k"], ["x"])
        assert link.call("LPOP", "k") == b"x" * 20_000
        link.close()


def test_a_server_that_cannot_save_refuses_writes_and_says_why() -> None:
    config = {"stop-writes-on-bgsave-error": "yes", "save": "3600 1", "dbfilename": "in-the-way"}
    with running_redis(config) as server:
        link = link_to(server.url)
        link.call("SET", "k", "v")
        (server.directory / "in-the-way").mkdir()
        (server.directory / "in-the-way" / "file").touch()
        link.call("BGSAVE")
        eventually(lambda: b"rdb_last_bgsave_status:err" in link.call("INFO", "persistence"))
        error = refused(link, "SET", "k", "w")
        assert type(error) is BrokerUnavailable
        assert "MISCONF" in str(error)
        assert link.call("GET", "k") == b"v"
        link.close()


def test_a_replica_is_left_for_the_next_address_of_the_list() -> None:
    with running_redis(AT_ONCE) as primary, running_redis() as replica:
        replica.cli("replicaof", "127.0.0.1", str(primary.port))
        eventually(lambda: "master_link_status:up" in replica.cli("info", "replication"))
        link = link_to(f"{replica.url};{primary.url}")
        assert link.call("RPUSH", "k", "v") == 1
        eventually(lambda: replica.cli("llen", "k") == "1")
        # The two change places: the connection to the old primary finds out when it writes.
        replica.cli("replicaof", "no", "one")
        primary.cli("replicaof", "127.0.0.1", str(replica.port))
        assert "READONLY" in str(refused(link, "RPUSH", "k", "v"))
        assert link.call("RPUSH", "k", "v") == 2
        link.close()


def test_an_address_that_is_down_is_passed_over(own_redis: RedisServer) -> None:
    link = link_to(f"redis://127.0.0.1:{free_port()}/0;{own_redis.url}")
    assert link.call("PING") == b"PONG"
    own_redis.kill()
    time.sleep(0.05)
    error = refused(link, "PING")
    assert isinstance(error, BrokerUnavailable) and not error.outcome_unknown
    assert str(error).count("refused") == 2
    own_redis.start()
    assert link.call("PING") == b"PONG"
    link.close()


def test_users_and_passwords() -> None:
    users = ["worker on >w-secret ~* +@all", "reader on >r-secret ~* +get +client +ping"]
    with running_redis(password="d-secret", users=users) as server:
        assert link_to(server.url).call("PING") == b"PONG"
        worker = link_to(server.url_of(user="worker", password="w-secret"))
        assert worker.call("ACL", "WHOAMI") == b"worker"
        options = {"username": "worker", "password": "w-secret"}
        by_options = link_to(f"redis://127.0.0.1:{server.port}/1", **options)
        assert by_options.call("ACL", "WHOAMI") == b"worker"
        reader = link_to(server.url_of(user="reader", password="r-secret"))
        not_allowed = refused(reader, "LPUSH", "k", "v")
        wrong = refused(link_to(server.url_of(user="worker", password="x-secret")), "PING")
        missing = refused(link_to(f"redis://127.0.0.1:{server.port}/0"), "PING")
        for error, words in ((not_allowed, ("LPUSH", "'reader'")), (wrong, ("WRONGPASS", "'worker'"))):
            assert all(word in str(error) for word in words)
        for error in (not_allowed, wrong, missing):
            assert type(error) is BrokerUnavailable and not error.outcome_unknown
            assert "secret" not in str(error) and "secret" not in repr(error)
        assert "NOAUTH" in str(missing)


class Provider:
    """Gives credentials that a test may change."""

    def __init__(self, *credentials: str) -> None:
        self.credentials = credentials

    def get_credentials(self) -> tuple[str, ...]:
        if not self.credentials:
            raise RuntimeError("the secret store said: hunter2")
        return self.credentials


def test_a_credential_provider_is_asked_at_each_connect() -> None:
    with running_redis(password="one", users=["worker on >two ~* +@all"]) as server:
        provider = Provider("one")
        link = link_to(f"redis://127.0.0.1:{server.port}/0", credential_provider=provider)
        assert link.call("ACL", "WHOAMI") == b"default"
        link.close()
        provider.credentials = ("worker", "two")
        assert link.call("ACL", "WHOAMI") == b"worker"
        push = link.connection(protocol=3)
        push.send_command("ACL", "WHOAMI")
        assert push.read_response(2.0) == b"worker"
        push.close()
        link.close()
        provider.credentials = ()
        error = refused(link, "PING")
        assert "RuntimeError" in str(error)
        assert "hunter2" not in str(error)


def test_the_third_protocol_takes_a_password_alone() -> None:
    with running_redis(password="one") as server:
        link = link_to(server.url)
        wire = link.connection(protocol=3)
        wire.send_command("PING")
        assert wire.read_response(2.0) == b"PONG"
        wire.close()


def test_a_user_who_may_not_name_a_connection_works_all_the_same() -> None:
    with running_redis(users=["narrow on >pass ~* +ping"]) as server:
        assert link_to(server.url_of(user="narrow", password="pass")).call("PING") == b"PONG"


def test_a_server_with_too_many_clients_says_so() -> None:
    with running_redis({"maxclients": 3}) as server:
        for _ in range(3):
            link_to(server.url).call("PING")
        one_too_many = link_to(server.url)
        # It answers and closes before it has read anything, so the answer may be lost on the way.
        eventually(lambda: "maxclients" in str(refused(one_too_many, "PING")))


def test_wrong_types_name_their_key_where_the_server_says_it() -> None:
    error = from_reply(ServerError("PREFORK WRONGTYPE a key"), where="here", user=None, command="reserve")
    assert isinstance(error, WrongKeyType)
    assert error.key == "a key"
