"""The result store in Redis beyond the conformance suite: keys, the rule about a SUCCESS, failures."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.transports.base import StoredResult
from prefork.transports.errors import ResultStoreUnavailable
from prefork.transports.redis import open_results
from prefork.transports.redis.link import Link
from prefork.transports.redis.result_retry import TOTAL_S, RetryRule, read_rule
from prefork.transports.redis.result_script import (
    CALL_BYTES_MAX,
    CALL_RESULTS_MAX,
    ResultKeys,
    calls,
    lifetime_ms,
    separated,
)
from prefork.transports.redis.results import READ_KEYS, RedisResults
from prefork.transports.redis.settings import read_settings
from prefork.transports.result_state import is_success
from support.forked import in_child
from support.redis_server import RedisServer
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import Background, eventually

FAILURE = b'{"status": "FAILURE"}'


@pytest.fixture
def link(shared_redis: RedisServer) -> Iterator[Link]:
    link = Link(read_settings(shared_redis.url))
    yield link
    link.close()


@pytest.fixture
def opened() -> Iterator[list[RedisResults]]:
    stores: list[RedisResults] = []
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def open_store(
    shared_redis: RedisServer, prefix: str, opened: list[RedisResults]
) -> Callable[..., RedisResults]:
    def _open(url: str = "", **options: Any) -> RedisResults:
        opened.append(open_results(url or shared_redis.url, {"global_keyprefix": prefix, **options}))
        return opened[-1]

    return _open


@pytest.fixture
def store(open_store: Callable[..., RedisResults]) -> RedisResults:
    return open_store()


def document(status: str, result: Any = None) -> bytes:
    return json.dumps({"status": status, "result": result}).encode()


def one(
    key: str, status: str = "SUCCESS", result: Any = None, expires_s: float | None = None
) -> StoredResult:
    return StoredResult(key, document(status, result), expires_s)


# --- keys -------------------------------------------------------------------------------------------


def test_documents_lie_under_the_names_of_the_field(store: RedisResults, prefix: str, link: Link) -> None:
    store.store([one("id", expires_s=100.0)])
    store.save_group("g", b"group", 100.0)
    assert link.call("GET", f"{prefix}celery-task-meta-id") == document("SUCCESS")
    assert link.call("GET", f"{prefix}celery-taskset-meta-g") == b"group"
    for key in ("celery-task-meta-id", "celery-taskset-meta-g"):
        assert 99_000 < link.call("PTTL", prefix + key) <= 100_000


def test_without_a_lifetime_nothing_expires(store: RedisResults, prefix: str, link: Link) -> None:
    store.store([one("id")])
    store.save_group("g", b"group", None)
    assert link.call("PTTL", f"{prefix}celery-task-meta-id") == -1
    assert link.call("PTTL", f"{prefix}celery-taskset-meta-g") == -1


@pytest.mark.parametrize(
    ("given_prefix", "used"), [("", ""), ("p", "p_"), ("p_", "p_"), ("p:", "p:"), ("p-", "p-"), ("p.", "p.")]
)
def test_the_prefix_is_separated_as_celery_does(given_prefix: str, used: str) -> None:
    assert separated(given_prefix) == used
    assert ResultKeys(separated(given_prefix)).task("x") == f"{used}celery-task-meta-x".encode()


def test_the_lifetime_is_in_milliseconds_and_never_none_by_mistake() -> None:
    assert [lifetime_ms(value) for value in (None, 0.0, 0.0004, 1.5)] == [0, 1, 1, 1500]


def test_a_call_of_the_script_is_bounded_in_number_and_size() -> None:
    keys = ResultKeys("")
    many = calls(keys, [StoredResult(str(n), b"x") for n in range(CALL_RESULTS_MAX * 2 + 1)])
    assert [len(named) for named, _ in many] == [CALL_RESULTS_MAX, CALL_RESULTS_MAX, 1]
    large = b"x" * (CALL_BYTES_MAX // 2 + 1)
    assert [len(named) for named, _ in calls(keys, [StoredResult(str(n), large) for n in range(3)])] == [
        1,
        1,
        1,
    ]
    assert calls(keys, []) == []


def test_many_results_are_stored_read_and_forgotten(store: RedisResults) -> None:
    names = [str(n) for n in range(READ_KEYS + CALL_RESULTS_MAX + 1)]
    store.store([one(name, result=name) for name in names])
    assert store.get(names) == [document("SUCCESS", name) for name in names]
    store.forget(names)
    assert store.get(names) == [None] * len(names)


# --- the rule about a SUCCESS -----------------------------------------------------------------------

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
states = st.sampled_from(["SUCCESS", "FAILURE", "REVOKED", "STARTED", "SUCCESSFUL", "success", "X1", ""])
entries = st.permutations(["status", "result", "traceback"])


def encodings(content: dict[str, Any]) -> list[bytes]:
    found = [json.dumps(content).encode(), json.dumps(content, separators=(",", ":")).encode()]
    found += [b" \n" + found[0], msgpack.packb(content)]
    if next(iter(content)) == "status":
        found += [pickle.dumps(content, protocol=protocol) for protocol in range(2, 6)]
    return found


@settings(max_examples=60, deadline=None)
@given(state=states, result=values, order=entries)
def test_the_server_and_python_agree_on_what_a_success_is(
    shared_redis: RedisServer, state: str, result: Any, order: list[str]
) -> None:
    content = {"status": state, "result": result, "traceback": None}
    ordered = {name: content[name] for name in order}
    store = open_results(shared_redis.url, {"global_keyprefix": "agree:"})
    try:
        for present in encodings(ordered):
            store.forget(["x"])
            store.store([StoredResult("x", present)])
            store.store([StoredResult("x", b"other")])
            assert (store.get(["x"]) == [present]) is is_success(present) is (state == "SUCCESS"), present
    finally:
        store.close()


@pytest.mark.parametrize(
    ("present", "kept"),
    [
        (rb'{"result": "\\ud800 \ud83d\ude00 \udc00", "status": "SUCCESS"}', True),
        (rb'{"result": "\ud800", "status": "FAILURE"}', False),
        (b'{"result": {"status": "SUCCESS"}, "status": "FAILURE"}', False),
        (b'{"status": "FAILURE", "result": {"status": "SUCCESS"}}', False),
        (b'{"result": NaN, "status": "SUCCESS"}', True),
        (b'{"result": ' + b"[" * 5000, False),
        (b"\xff\xfe", False),
        (b"\x00celery-compressed\x00application/x-gzip\x00...", False),
    ],
)
def test_awkward_documents_are_judged_by_their_own_state(
    store: RedisResults, present: bytes, kept: bool
) -> None:
    store.store([StoredResult("x", present)])
    store.store([StoredResult("x", FAILURE)])
    assert store.get(["x"]) == [present if kept else FAILURE]


def test_a_key_that_holds_something_else_is_replaced(store: RedisResults, prefix: str, link: Link) -> None:
    link.call("LPUSH", f"{prefix}celery-task-meta-x", "not a result")
    assert store.get(["x"]) == [None]
    store.store([one("x")])
    assert store.get(["x"]) == [document("SUCCESS")]


def test_an_overwritten_document_takes_the_new_lifetime(store: RedisResults, prefix: str, link: Link) -> None:
    store.store([one("x", "STARTED", expires_s=1000.0)])
    store.store([one("x", "RETRY")])
    assert link.call("PTTL", f"{prefix}celery-task-meta-x") == -1


# --- announcements ----------------------------------------------------------------------------------


def test_every_document_that_is_written_is_announced_and_no_other(
    store: RedisResults, prefix: str, link: Link
) -> None:
    wire = link.connection()
    channel = f"{prefix}celery-task-meta-x"
    wire.send_command("SUBSCRIBE", channel)
    assert wire.read_response(5.0)[0] == b"subscribe"
    for state in ("STARTED", "SUCCESS", "FAILURE"):
        store.store([one("x", state)])
    store.store([one("y")])
    heard = [wire.read_response(5.0) for _ in range(2)]
    assert heard == [[b"message", channel.encode(), document(state)] for state in ("STARTED", "SUCCESS")]
    assert not wire.can_read()
    wire.close()


def test_one_who_may_not_publish_stores_all_the_same_and_is_told_once(
    open_store: Callable[..., RedisResults], prefix: str, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    link.call("ACL", "SETUSER", "mute", "on", ">word", "~*", "resetchannels", "+@all")
    url = shared_url_of(link, "mute:word")
    store = open_store(url)
    with caplog.at_level(logging.WARNING):
        store.store([one("x")])
        store.store([one("y")])
    assert store.get(["x", "y"]) == [document("SUCCESS")] * 2
    said = [record.getMessage().count("the user 'mute' publish") for record in caplog.records]
    assert said == [1]
    assert "word" not in caplog.text.replace("password", "")
    with pytest.raises(ResultStoreUnavailable, match="NOPERM"):
        store.wait(["z"], 0.3)
    link.call("ACL", "DELUSER", "mute")


def shared_url_of(link: Link, login: str) -> str:
    return f"redis://{login}@{link.settings.endpoints[0]}/0"


# --- without waiting --------------------------------------------------------------------------------


def test_what_is_stored_soon_comes_before_what_is_stored_later(store: RedisResults) -> None:
    for number in range(50):
        key = str(number)
        store.store_soon([one(key, "STARTED")])
        store.store([one(key, "SUCCESS")])
        assert store.get([key]) == [document("SUCCESS")]


def test_what_is_stored_soon_is_there_soon(open_store: Callable[..., RedisResults]) -> None:
    writer, reader = open_store(), open_store()
    writer.store_soon([one(str(n), "STARTED") for n in range(CALL_RESULTS_MAX + 1)])
    eventually(lambda: None not in reader.get([str(n) for n in range(CALL_RESULTS_MAX + 1)]))


def test_storing_soon_on_a_server_that_is_away_is_known_at_once(own_redis: RedisServer, opened: Any) -> None:
    store = open_results(own_redis.url, {})
    opened.append(store)
    own_redis.kill()
    with pytest.raises(ResultStoreUnavailable):
        store.store_soon([one("x", "STARTED")])


# --- failures ---------------------------------------------------------------------------------------


def test_a_broken_connection_is_replaced_and_the_operation_repeated(
    shared_redis: RedisServer, open_store: Callable[..., RedisResults]
) -> None:
    with tcp_proxy(shared_redis.port) as proxy:
        store = open_store(f"redis://127.0.0.1:{proxy.port}/0")
        store.store([one("a")])
        for mode in (Mode.CUT_AFTER_REQUEST, Mode.CUT_IN_REPLY, Mode.RESET):
            proxy.set(mode, times=1)
            store.store([one(mode.value)])
            proxy.set(mode, times=1)
            assert store.get([mode.value]) == [document("SUCCESS")]
        assert proxy.hits[Mode.CUT_AFTER_REQUEST.value] == 2


def test_a_silent_server_is_given_up_in_time(
    shared_redis: RedisServer, open_store: Callable[..., RedisResults]
) -> None:
    with tcp_proxy(shared_redis.port) as proxy:
        store = open_store(
            f"redis://127.0.0.1:{proxy.port}/0", socket_timeout=1.0, socket_connect_timeout=1.0
        )
        proxy.set(Mode.BLACK_HOLE)
        with pytest.raises(ResultStoreUnavailable, match="127.0.0.1"):
            store.get(["x"])
        proxy.set(Mode.PASS)
        assert store.get(["x"]) == [None]


def test_a_full_server_says_so_and_still_answers(own_redis: RedisServer, opened: Any) -> None:
    store = open_results(own_redis.url, {})
    opened.append(store)
    store.store([one("x")])
    own_redis.cli("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ResultStoreUnavailable, match="out of memory"):
        store.store([one("y")])
    assert store.get(["x", "y"]) == [document("SUCCESS"), None]
    own_redis.cli("CONFIG", "SET", "maxmemory", "0")
    store.store([one("y")])


def test_a_forgotten_script_is_loaded_again(own_redis: RedisServer, opened: Any) -> None:
    store = open_results(own_redis.url, {})
    opened.append(store)
    store.store([one("x")])
    own_redis.cli("SCRIPT", "FLUSH")
    store.store([one("y")])
    assert store.get(["y"]) == [document("SUCCESS")]


def test_a_document_that_the_server_refuses_for_its_size_is_an_error(
    own_redis: RedisServer, opened: Any
) -> None:
    own_redis.cli("CONFIG", "SET", "proto-max-bulk-len", str(1024 * 1024))
    store = open_results(own_redis.url, {})
    opened.append(store)
    with pytest.raises(Exception, match="redis at"):
        store.store([one("x", result="x" * 2_000_000)])
    store.store([one("x")])
    assert store.get(["x"]) == [document("SUCCESS")]


def test_repeating_follows_the_configuration() -> None:
    usual = RetryRule()
    assert [usual.pause_s(failed, broken=True) for failed in (1, 2)] == [0.0, None]
    assert usual.pause_s(1, broken=False) is None
    rule = read_rule(
        {
            "result_backend_always_retry": True,
            "result_backend_max_retries": 4,
            "result_backend_base_sleep_between_retries_ms": 100,
            "result_backend_max_sleep_between_retries_ms": 300,
        }
    )
    pauses = [rule.pause_s(failed, broken=False) for failed in range(1, 6)]
    assert pauses == [0.1, 0.2, 0.3, 0.3, None]


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.floats(1, 1e6))
def test_repeating_for_ever_ends_all_the_same(failed: int, base_ms: float, longest_ms: float) -> None:
    rule = RetryRule(always=True, base_ms=max(base_ms, 1.0), longest_ms=longest_ms)
    pause_s = rule.pause_s(failed, broken=True)
    assert pause_s is None or 0.0 < pause_s <= TOTAL_S


def test_an_outage_is_outlasted_when_asked_for(own_redis: RedisServer, opened: Any) -> None:
    store = open_results(own_redis.url, {"result_backend_always_retry": True})
    opened.append(store)
    store.get(["x"])
    own_redis.kill()
    storing = Background(lambda: store.store([one("x")]))
    eventually(lambda: storing.running)
    own_redis.start()
    storing.result(20.0)
    assert store.get(["x"]) == [document("SUCCESS")]


def test_a_child_opens_its_own_connections_and_leaves_the_parents_alone(store: RedisResults) -> None:
    store.store([one("x")])
    waiting = Background(lambda: store.wait(["later"], 20.0))

    def check() -> None:
        assert store.get(["x"]) == [document("SUCCESS")]
        assert store.wait(["x"], 5.0) == {"x": document("SUCCESS")}
        store.store([one("later")])
        store.close()

    in_child(check)
    assert waiting.result(10.0) == {"later": document("SUCCESS")}
    assert store.get(["x"]) == [document("SUCCESS")]
