"""One connection: commands, transactions, scripts, and every way in which it breaks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.errors import BrokerFull, BrokerUnavailable, TransportError
from prefork.transports.redis.faults import CommandRefused, ScriptError, WrongKeyType
from prefork.transports.redis.link import Link, script
from prefork.transports.redis.settings import read_settings
from prefork.transports.redis.wire import pack
from support.calibration import Waits
from support.ports import free_port
from support.redis_server import RedisServer, running_redis
from support.resp_server import resp_server
from support.tcp_proxy import Mode, TcpProxy, tcp_proxy
from support.waiting import Background, eventually

ECHO = script("echo", b"return {KEYS[1], ARGV[1]}")
PUT = script("put", b"redis.call('RPUSH', KEYS[1], ARGV[1]) return 1")
PATIENT_S = 30.0
"""For an answer that must come, however long the machine stands still."""
REFUSE = script("refuse", b"return redis.error_reply(ARGV[1])")


def link_to(url: str, **options: Any) -> Link:
    return Link(read_settings(url, options), name="test link")


@pytest.fixture
def link(shared_redis: RedisServer) -> Iterator[Link]:
    link = link_to(shared_redis.url)
    yield link
    link.close()


@pytest.fixture
def proxy(shared_redis: RedisServer) -> Iterator[TcpProxy]:
    with tcp_proxy(shared_redis.port) as proxy:
        yield proxy


@pytest.fixture
def cut_link(proxy: TcpProxy) -> Iterator[Link]:
    """A connected link that leads through the proxy; answers may take half a minute."""
    link = link_to(f"redis://127.0.0.1:{proxy.port}/0", socket_timeout=PATIENT_S)
    assert link.call("PING") == b"PONG"
    yield link
    link.close()


@pytest.fixture
def hasty_link(proxy: TcpProxy) -> Iterator[Link]:
    """Another one; answers may take half a second, where a test does not say otherwise."""
    options = {"socket_timeout": 0.5, "socket_connect_timeout": PATIENT_S}
    link = link_to(f"redis://127.0.0.1:{proxy.port}/0", **options)
    assert link.call("PING", timeout_s=PATIENT_S) == b"PONG"
    yield link
    link.close()


def refused(attempt: Callable[[], Any]) -> BrokerUnavailable:
    """The error of an attempt that must end with BrokerUnavailable."""
    with pytest.raises(BrokerUnavailable) as caught:
        attempt()
    return caught.value


def swallowed(proxy: TcpProxy, mode: Mode) -> None:
    """Wait until the proxy has read the one request that it was to swallow.

    Who gives a connection up does not wait for the proxy: it may still take the first bytes of the next
    connection for that request.
    """
    eventually(lambda: proxy.hits[mode.value])
    assert proxy.hits[mode.value] == 1


# -- commands ----------------------------------------------------------------------------------


def test_a_command_takes_bytes_text_and_numbers(link: Link, prefix: str) -> None:
    assert link.call("RPUSH", prefix + "k", b"\x00\xff", "\u00e9", 7, 1.5) == 4
    assert link.call("LRANGE", prefix + "k", 0, -1) == [b"\x00\xff", b"\xc3\xa9", b"7", b"1.5"]
    assert link.call(b"GET", prefix + "none") is None


def test_an_argument_of_another_type_is_refused_and_nothing_is_sent(link: Link) -> None:
    for bad in (None, True, object()):
        with pytest.raises(TypeError):
            link.call("ECHO", bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            link.call("RPUSH", "k", *([bad] * 20))  # type: ignore[list-item]
    assert link.call("ECHO", "x") == b"x"


@given(st.lists(st.one_of(st.binary(), st.text(), st.integers(), st.floats(allow_nan=False)), min_size=1))
def test_both_ways_of_packing_make_the_same_bytes(args: list[Any]) -> None:
    few = pack(args[:16])
    many = pack([*args[:16], *(["x"] * 16)])
    assert many.split(b"\r\n", 1)[1].startswith(few.split(b"\r\n", 1)[1])


def test_many_commands_take_one_round_trip_and_keep_their_order(link: Link, prefix: str) -> None:
    commands = [("RPUSH", prefix + "k", number) for number in range(500)]
    assert link.many(commands) == list(range(1, 501))
    assert link.many([]) == []


def test_replies_larger_than_the_buffer_arrive_whole(link: Link, prefix: str) -> None:
    big = os.urandom(3_000_000)
    assert link.call("SET", prefix + "big", big) == b"OK"
    assert link.call("GET", prefix + "big") == big
    assert link.many([("GET", prefix + "big"), ("ECHO", "after")]) == [big, b"after"]
    link.call("DEL", prefix + "big")


def test_one_refusal_among_many_is_raised_and_the_connection_stays_in_step(link: Link, prefix: str) -> None:
    link.call("SET", prefix + "text", "x")
    with pytest.raises(WrongKeyType):
        link.many([("INCR", prefix + "n"), ("LPUSH", prefix + "text", "y"), ("INCR", prefix + "n")])
    assert link.call("GET", prefix + "n") == b"2"


def test_tolerant_commands_return_refusals_in_their_places(link: Link, prefix: str) -> None:
    link.call("SET", prefix + "text", "x")
    first, second, third = link.many(
        [("INCR", prefix + "n"), ("LPUSH", prefix + "text", "y"), ("INCR", prefix + "n")], tolerant=True
    )
    assert (first, third) == (1, 2)
    assert isinstance(second, WrongKeyType)


def test_a_transaction_returns_the_replies_of_its_commands(link: Link, prefix: str) -> None:
    assert link.many([("INCR", prefix + "n"), ("GET", prefix + "n")], atomic=True) == [1, b"1"]


def test_a_transaction_with_a_command_that_does_not_exist_does_nothing(link: Link, prefix: str) -> None:
    with pytest.raises(CommandRefused, match="NONSENSE") as caught:
        link.many([("INCR", prefix + "n"), ("NONSENSE",)], atomic=True)
    assert caught.value.word == "ERR"
    assert link.call("GET", prefix + "n") is None


def test_a_refusal_within_a_transaction_is_raised(link: Link, prefix: str) -> None:
    link.call("SET", prefix + "text", "x")
    with pytest.raises(WrongKeyType):
        link.many([("INCR", prefix + "n"), ("LPUSH", prefix + "text", "y")], atomic=True)
    assert link.call("GET", prefix + "n") == b"1"


def test_a_connection_bears_its_name(shared_redis: RedisServer) -> None:
    link = link_to(shared_redis.url)
    assert link.call("CLIENT", "GETNAME") == b"test-link"
    other = Link(read_settings(shared_redis.url, {"client_name": "mine"}))
    assert other.call("CLIENT", "GETNAME") == b"mine"
    link.close()
    other.close()


def test_a_database_other_than_the_first_is_selected_anew_with_each_connection(
    shared_redis: RedisServer, prefix: str
) -> None:
    link = link_to(shared_redis.url_of(5))
    link.call("SET", prefix + "k", "v")
    link.close()
    assert not link.connected
    assert link.call("GET", prefix + "k") == b"v"
    assert link.connected
    link.close()


def test_a_unix_socket_serves_as_well() -> None:
    with running_redis(unix=True) as server:
        link = link_to(server.url_of(3))
        assert link.call("PING") == b"PONG"
        assert b"db=3" in link.call("CLIENT", "INFO")
        link.close()


def test_a_database_that_does_not_exist_is_an_error_that_says_so(shared_redis: RedisServer) -> None:
    with pytest.raises(TransportError, match="DB index is out of range"):
        link_to(shared_redis.url_of(99)).call("PING")


# -- scripts -----------------------------------------------------------------------------------


def test_a_script_is_loaded_when_the_server_does_not_know_it(own_redis: RedisServer) -> None:
    link = link_to(own_redis.url)
    for _ in range(3):
        assert link.run(ECHO, ["k"], [b"v"]) == [b"k", b"v"]
        link.call("SCRIPT", "FLUSH")
    own_redis.restart()
    assert eventually(lambda: link.run(ECHO, ["k"], ["v"])) == [b"k", b"v"]
    link.close()


def test_a_script_runs_once_for_each_call_whether_it_was_known_or_not(own_redis: RedisServer) -> None:
    link = link_to(own_redis.url)
    for expected in range(1, 6):
        link.run(PUT, ["k"], [expected])
        assert link.call("LLEN", "k") == expected
        if expected % 2:
            link.call("SCRIPT", "FLUSH")
    link.close()


def test_a_script_with_a_mistake_is_refused_by_its_name(link: Link) -> None:
    with pytest.raises(CommandRefused, match="wrong syntax|Error compiling"):
        link.run(script("broken", b"this is not Lua"), [], [])
    with pytest.raises(CommandRefused, match="failing"):
        link.run(script("failing", b"return 1 + nil"), [], [])


@pytest.mark.parametrize(
    ("said", "kind", "shown"),
    [
        ("PREFORK WRONGTYPE some key", WrongKeyType, "'some key'"),
        ("PREFORK FENCE gone", ScriptError, "FENCE gone"),
        ("WRONGTYPE Operation against a key", WrongKeyType, "WRONGTYPE"),
        ("OOM command not allowed when used memory > 'maxmemory'.", BrokerFull, "maxmemory"),
    ],
)
def test_what_a_script_refuses_becomes_a_typed_error(
    link: Link, said: str, kind: type[TransportError], shown: str
) -> None:
    with pytest.raises(kind, match=shown):
        link.run(REFUSE, [], [said])
    assert link.connected


def test_a_script_that_is_only_sent_runs_before_what_follows(link: Link, prefix: str) -> None:
    for number in range(5):
        link.send_only(PUT, [prefix + "k"], [number])
    assert link.call("LLEN", prefix + "k") == 5
    link.send_only(PUT, [prefix + "k"], [5])
    assert link.many([("LLEN", prefix + "k"), ("ECHO", "x")]) == [6, b"x"]


def test_a_script_that_may_leave_with_what_follows_leaves_by_itself_soon(link: Link, prefix: str) -> None:
    other = link_to(link.settings.shown)
    for number in range(3):
        link.send_only(PUT, [prefix + "k"], [number], more=True)
    # Nothing follows, and this process does nothing about it.
    eventually(lambda: other.call("LLEN", prefix + "k") == 3, deadline_s=2.0)
    assert link.call("LLEN", prefix + "k") == 3
    other.close()


def test_a_refusal_of_a_script_that_is_only_sent_is_logged_once(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        link.send_only(REFUSE, [], ["PREFORK FENCE gone"])
        assert link.call("ECHO", "x") == b"x"
    assert [record.message for record in caplog.records if "FENCE" in record.message] != []
    assert len([record for record in caplog.records if "FENCE" in record.message]) == 1


def test_a_script_that_is_only_sent_is_loaded_again_after_a_flush(own_redis: RedisServer) -> None:
    link = link_to(own_redis.url)
    link.send_only(PUT, ["k"], [1])
    link.call("SCRIPT", "FLUSH")
    link.send_only(PUT, ["k"], [2])  # lost: nobody waits for the answer that says so
    assert link.call("LRANGE", "k", 0, -1) == [b"1"]
    link.send_only(PUT, ["k"], [3])
    assert link.call("LRANGE", "k", 0, -1) == [b"1", b"3"]
    link.close()


def test_sending_without_waiting_says_when_the_connection_is_gone(own_redis: RedisServer) -> None:
    link = link_to(own_redis.url)
    link.call("PING")
    own_redis.kill()

    def send_until_it_fails() -> None:
        for _ in range(100):
            link.send_only(PUT, ["k"], ["x"])
            time.sleep(0.005)

    refused(send_until_it_fails)
    assert not link.connected
    link.close()


# -- broken connections ------------------------------------------------------------------------


def test_nobody_listening_is_known_to_have_changed_nothing() -> None:
    error = refused(lambda: link_to(f"redis://u:secret@127.0.0.1:{free_port()}/0").call("PING"))
    assert not error.outcome_unknown
    assert "refused" in str(error).lower()
    assert "secret" not in str(error)


def test_an_unknown_host_is_known_to_have_changed_nothing() -> None:
    assert not refused(lambda: link_to("redis://no-such-host.invalid/0").call("PING")).outcome_unknown


def test_a_reset_between_calls_is_noticed_before_anything_is_sent(cut_link: Link, proxy: TcpProxy) -> None:
    proxy.set(Mode.RESET, times=1)
    time.sleep(0.1)  # it looks only where it was not used for a while
    assert cut_link.call("PING") == b"PONG"
    assert proxy.hits["reset"] == 1
    assert proxy.hits["connections"] == 2


def test_a_reply_that_was_cut_off_leaves_the_outcome_unknown(
    cut_link: Link, proxy: TcpProxy, prefix: str
) -> None:
    proxy.set(Mode.CUT_AFTER_REQUEST, times=1)
    assert refused(lambda: cut_link.call("INCR", prefix + "n")).outcome_unknown
    assert cut_link.call("GET", prefix + "n") == b"1"
    proxy.set(Mode.CUT_IN_REPLY, times=1)
    assert refused(lambda: cut_link.many([("INCR", prefix + "n"), ("INCR", prefix + "n")])).outcome_unknown
    assert cut_link.call("GET", prefix + "n") == b"3"
    assert proxy.hits["cut after request"] == proxy.hits["cut in reply"] == 1


@pytest.mark.parametrize("mode", [Mode.BLACK_HOLE, Mode.HALF_OPEN])
def test_silence_ends_with_the_socket_timeout(hasty_link: Link, proxy: TcpProxy, mode: Mode) -> None:
    proxy.set(mode, times=1)
    began = time.monotonic()
    error = refused(lambda: hasty_link.call("PING"))
    took_s = time.monotonic() - began
    assert error.outcome_unknown
    assert 0.4 < took_s < 2.0
    swallowed(proxy, mode)
    assert hasty_link.call("PING", timeout_s=PATIENT_S) == b"PONG"


def test_a_time_limit_of_one_call_does_not_outlast_it(
    hasty_link: Link, cut_link: Link, proxy: TcpProxy
) -> None:
    assert hasty_link.call("BLPOP", "nothing-here", 0.7, timeout_s=PATIENT_S) is None
    began = time.monotonic()
    refused(lambda: hasty_link.call("BLPOP", "nothing-here", PATIENT_S))
    assert time.monotonic() - began < 2.0
    began = time.monotonic()
    refused(lambda: cut_link.call("BLPOP", "nothing-here", PATIENT_S, timeout_s=0.1))
    assert time.monotonic() - began < 2.0


def test_a_connection_that_a_task_had_its_hands_on_is_given_up_at_once(
    cut_link: Link, proxy: TcpProxy
) -> None:
    proxy.set(
        Mode.BLACK_HOLE, times=1
    )  # as when bytes of others keep the server from understanding a command
    wire = cut_link._wire
    assert wire is not None
    os.set_blocking(wire._sock.fileno(), False)
    began = time.monotonic()
    error = refused(lambda: cut_link.call("PING"))
    assert time.monotonic() - began < PATIENT_S / 2
    assert error.outcome_unknown
    assert "made non-blocking by somebody else" in str(error)
    swallowed(proxy, Mode.BLACK_HOLE)
    assert cut_link.call("PING") == b"PONG"


def test_slow_bytes_do_not_stretch_the_time_limit(hasty_link: Link, proxy: TcpProxy, prefix: str) -> None:
    hasty_link.call("SET", prefix + "k", b"x" * 200, timeout_s=PATIENT_S)
    proxy.set(Mode.ONE_BYTE)
    assert hasty_link.call("GET", prefix + "k", timeout_s=PATIENT_S) == b"x" * 200
    proxy.byte_pause_s = 0.02  # the reply as a whole would take 4 s
    began, waits = time.monotonic(), Waits()
    refused(lambda: hasty_link.call("GET", prefix + "k"))
    assert 0.4 < time.monotonic() - began < 1.5, waits.so_far_s


def test_a_slow_network_is_no_error(cut_link: Link, proxy: TcpProxy) -> None:
    proxy.set(Mode.DELAY)
    assert cut_link.call("PING") == b"PONG"
    assert proxy.hits["delay"] >= 2


def test_a_reply_that_is_none_breaks_the_connection() -> None:
    with resp_server(lambda command: b"+OK\r\n" if command[0] == b"CLIENT" else b"!nonsense\r\n") as server:
        link = link_to(server.url, socket_timeout=1.0)
        assert refused(lambda: link.call("GET", "k")).outcome_unknown
        assert not link.connected


def test_an_exception_in_the_middle_of_a_call_drops_the_connection(link: Link, prefix: str) -> None:
    """A time limit may strike anywhere; the reply it leaves behind must not answer the next command."""
    link.call("PING")
    wire = link._wire
    assert wire is not None

    class Strikes:
        def __getattr__(self, name: str) -> Any:
            return getattr(wire, name)

        def read(self) -> Any:
            raise KeyboardInterrupt

    link._wire = Strikes()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        link.call("ECHO", "first")
    assert link.call("ECHO", "second") == b"second"


def test_a_large_command_that_nobody_reads_ends_with_the_time_limit(own_redis: RedisServer) -> None:
    link = link_to(own_redis.url, socket_timeout=0.4, socket_connect_timeout=PATIENT_S)
    link.call("PING", timeout_s=PATIENT_S)
    own_redis.stop()
    try:
        began = time.monotonic()
        error = refused(lambda: link.call("SET", "k", b"x" * 50_000_000))
        assert time.monotonic() - began < 3.0
        assert not error.outcome_unknown  # the server cannot have had all of it
    finally:
        own_redis.cont()
    assert link.call("PING", timeout_s=PATIENT_S) == b"PONG"
    assert link.call("EXISTS", "k", timeout_s=PATIENT_S) == 0
    link.close()


def test_after_an_outage_the_next_call_works(own_redis: RedisServer) -> None:
    link = link_to(own_redis.url)
    link.call("SET", "k", "v")
    own_redis.kill()
    time.sleep(0.1)
    for _ in range(3):
        assert not refused(lambda: link.call("GET", "k")).outcome_unknown
    own_redis.start()
    assert link.call("PING") == b"PONG"
    link.close()


def test_a_deadline_bounds_connecting_and_the_command(shared_redis: RedisServer, proxy: TcpProxy) -> None:
    link = link_to(f"redis://127.0.0.1:{proxy.port}/3", socket_timeout=30, socket_connect_timeout=30)
    proxy.set(Mode.BLACK_HOLE)
    for deadline_s in (0.2, 0.6):
        began, waits = time.monotonic(), Waits()
        link.bound(began + deadline_s)
        assert not refused(lambda: link.call("PING")).outcome_unknown
        took_s = time.monotonic() - began
        assert deadline_s - 0.05 <= took_s < deadline_s + 0.3, waits.so_far_s
    assert "over" in str(refused(lambda: link.call("PING")))
    link.bound(0.0)
    proxy.set(Mode.PASS)
    assert link.call("PING") == b"PONG"
    link.close()


# -- a second process --------------------------------------------------------------------------


def test_a_child_opens_its_own_connection_and_leaves_the_parents_alone(shared_redis: RedisServer) -> None:
    link = link_to(shared_redis.url)
    mine = link.call("CLIENT", "ID")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, b"%d" % link.call("CLIENT", "ID"))
            link.close()
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    assert int(os.read(reader, 100)) != mine
    os.close(reader)
    assert link.call("CLIENT", "ID") == mine
    link.close()


# -- a second kind of connection ---------------------------------------------------------------


def test_a_connection_for_push_messages_speaks_the_third_protocol(shared_redis: RedisServer) -> None:
    link = link_to(shared_redis.url_of(2))
    wire = link.connection(protocol=3, name="watcher")
    wire.send_command("SUBSCRIBE", "news")
    assert wire.read_response(2.0) == [b"subscribe", b"news", 1]
    assert not wire.can_read()
    link.call("PUBLISH", "news", "hello")
    assert wire.can_read(2.0)
    assert wire.read_response(2.0) == [b"message", b"news", b"hello"]
    with pytest.raises(TimeoutError):
        wire.read_response(0.05)
    assert wire.fileno() > 0
    wire.close()
    link.close()


def test_blocked_calls_do_not_hold_up_the_program(link: Link, shared_redis: RedisServer, prefix: str) -> None:
    other = link_to(shared_redis.url)
    waiting = Background(lambda: link.call("BLPOP", prefix + "k", 0, timeout_s=PATIENT_S))
    eventually(lambda: b"blocked_clients:1" in other.call("INFO", "clients"))
    for _ in range(5):
        time.sleep(0.01)
    assert waiting.running
    # Only what another thread does meanwhile ends it.
    other.call("RPUSH", prefix + "k", "x")
    assert waiting.result() == [(prefix + "k").encode(), b"x"]
    other.close()
