"""Results as messages: between our processes, and to and from Celery's own RPC backend."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import celery
import msgpack
import pytest
from celery.app.task import Context

from prefork.transports import registry
from prefork.transports.amqp import replies as replies_module
from prefork.transports.amqp.replies import Replies
from prefork.transports.amqp.rpc_results import RpcResults, check_options, open_results
from prefork.transports.amqp.settings import read_settings
from prefork.transports.base import Answers, StoredResult
from prefork.transports.errors import BrokerUnavailable, ResultStoreUnavailable, UnsupportedTransport
from support.forked import in_child
from support.rabbitmq_server import RabbitMQ
from support.waiting import Background, eventually

OpenRpc = Callable[..., RpcResults]


@pytest.fixture
def open_rpc(rabbitmq: RabbitMQ) -> Iterator[OpenRpc]:
    opened: list[RpcResults] = []

    def _open(**options: Any) -> RpcResults:
        store = registry.open_results("rpc://", {"broker_url": rabbitmq.url, **options})
        assert isinstance(store, RpcResults)
        opened.append(store)
        return store

    yield _open
    for store in opened:
        store.close()


def document(status: str, result: object = None) -> bytes:
    return json.dumps({"status": status, "result": result}).encode()


def reply(key: str, status: str, result: object, reply_to: str) -> StoredResult:
    return StoredResult(key, document(status, result), 60.0, status != "STARTED", reply_to)


def fresh() -> str:
    return uuid.uuid4().hex


def test_a_reply_ends_the_wait_of_who_called(open_rpc: OpenRpc) -> None:
    caller, worker = open_rpc(), open_rpc()
    assert isinstance(caller, Answers)
    reply_to, key = caller.listen(), fresh()
    assert caller.listen() == reply_to
    waiting = Background(lambda: caller.wait([key], 20.0))
    worker.store([reply(key, "STARTED", None, reply_to), reply(key, "SUCCESS", 7, reply_to)])
    assert waiting.result(20.0) == {key: document("SUCCESS", 7)}
    assert caller.get([key, fresh()]) == [document("SUCCESS", 7), None]
    assert caller.wait([key], 0.0) == {key: document("SUCCESS", 7)}
    caller.forget([key])
    assert caller.get([key]) == [None]


def test_the_newest_state_is_read_and_nothing_comes_after_the_last(open_rpc: OpenRpc) -> None:
    caller, worker = open_rpc(), open_rpc()
    reply_to, key = caller.listen(), fresh()
    for status, result in (("STARTED", 1), ("PROGRESS", 2), ("SUCCESS", 3), ("STARTED", 4)):
        worker.store_soon([reply(key, status, result, reply_to)])
        if status == "PROGRESS":
            eventually(lambda: caller.get([key]) == [document("PROGRESS", 2)])
            assert caller.wait([key], 0.05) == {}
    assert caller.wait([key], 20.0) == {key: document("SUCCESS", 3)}
    last = fresh()
    worker.store([reply(last, "SUCCESS", 5, reply_to)])
    assert caller.wait([last], 20.0)
    assert caller.get([key]) == [document("SUCCESS", 3)]


def test_threads_wait_at_once_each_for_its_own(open_rpc: OpenRpc) -> None:
    caller, worker = open_rpc(), open_rpc()
    reply_to, keys = caller.listen(), [fresh() for _ in range(12)]
    waiting = [Background(lambda key=key: caller.wait([key], 20.0)) for key in keys]
    for key in reversed(keys):
        worker.store([reply(key, "SUCCESS", key, reply_to)])
    for key, one in zip(keys, waiting):
        assert one.result(20.0) == {key: document("SUCCESS", key)}


def test_who_did_not_call_reads_nothing(open_rpc: OpenRpc) -> None:
    store = open_rpc()
    key = fresh()
    store.store([StoredResult(key, document("SUCCESS"))])
    store.store([])
    assert store.get([key]) == [None]
    began_mono_s = time.monotonic()
    assert store.wait([key], 0.1) == {}
    assert time.monotonic() - began_mono_s < 10.0
    assert store.wait([], None) == {}


def test_a_reply_to_somebody_who_is_gone_is_dropped_and_the_others_arrive(open_rpc: OpenRpc) -> None:
    caller, worker = open_rpc(), open_rpc()
    key = fresh()
    worker.store([reply(fresh(), "SUCCESS", 1, f"gone.{fresh()}"), reply(key, "SUCCESS", 2, caller.listen())])
    assert caller.wait([key], 20.0) == {key: document("SUCCESS", 2)}


def test_a_closed_store_lets_waiters_go_and_deletes_its_queue(open_rpc: OpenRpc, rabbitmq: RabbitMQ) -> None:
    caller = open_rpc()
    queue = caller.listen()
    waiting = Background(lambda: caller.wait([fresh()], None))
    assert waiting.running
    caller.close()
    caller.close()
    assert waiting.result(20.0) == {}
    assert queue not in rabbitmq.control("list_queues", "name")


def test_a_thread_that_comes_to_read_when_the_store_was_closed_makes_no_queue_anew(
    open_rpc: OpenRpc, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = open_rpc()
    queue = caller.listen()
    read, comes, closed = Replies.read, threading.Event(), threading.Event()

    def late(replies: Replies, timeout_s: float) -> None:
        comes.set()
        assert closed.wait(20.0)
        read(replies, timeout_s)

    monkeypatch.setattr(Replies, "read", late)
    waiting = Background(lambda: caller.wait([fresh()], None))
    assert comes.wait(20.0)
    caller.close()
    closed.set()
    assert waiting.result(20.0) == {}
    assert queue not in rabbitmq.control("list_queues", "name")
    assert not caller._replies._link.is_open


def test_replies_wait_while_the_connection_is_lost(open_rpc: OpenRpc) -> None:
    caller, worker = open_rpc(), open_rpc()
    reply_to, key = caller.listen(), fresh()
    link = caller._replies._link
    with link.lock:
        link.drop()
    worker.store([reply(key, "SUCCESS", 1, reply_to)])
    assert caller.wait([key], 20.0) == {key: document("SUCCESS", 1)}


def test_a_queue_that_was_deleted_is_made_again(open_rpc: OpenRpc, rabbitmq: RabbitMQ) -> None:
    caller, worker = open_rpc(), open_rpc()
    reply_to, key = caller.listen(), fresh()
    waiting = Background(lambda: caller.wait([key], 30.0))
    rabbitmq.control("delete_queue", reply_to)

    def answered() -> bool:
        worker.store([reply(key, "SUCCESS", 1, reply_to)])
        return not waiting.running

    eventually(answered, every_s=0.1)
    assert waiting.result(1.0) == {key: document("SUCCESS", 1)}


def test_a_forked_process_listens_for_itself(open_rpc: OpenRpc) -> None:
    caller, worker = open_rpc(), open_rpc()
    mine, key = caller.listen(), fresh()

    def child() -> None:
        assert caller.get([key]) == [None]
        theirs = caller.listen()
        assert theirs != mine
        worker.store([reply(key, "SUCCESS", os.getpid(), theirs)])
        assert caller.wait([key], 20.0)
        caller.close()

    in_child(child)
    assert caller.get([key]) == [None]
    worker.store([reply(key, "SUCCESS", 1, mine)])
    assert caller.wait([key], 20.0) == {key: document("SUCCESS", 1)}


def test_replies_that_nobody_fetches_expire(open_rpc: OpenRpc, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, worker = open_rpc(result_expires=600.0), open_rpc()
    reply_to, keys = caller.listen(), [fresh() for _ in range(5)]
    worker.store([reply(key, "SUCCESS", 1, reply_to) for key in keys])
    eventually(lambda: len(caller.wait(keys, 1.0)) == 5)
    assert caller.expire(2) == 0
    monkeypatch.setattr(replies_module, "monotonic", lambda: time.monotonic() + 601.0)
    assert [caller.expire(2) for _ in range(4)] == [2, 2, 1, 0]
    assert caller.get(keys) == [None] * 5


def test_there_are_no_groups(open_rpc: OpenRpc) -> None:
    store = open_rpc()
    with pytest.raises(ResultStoreUnavailable, match="keeps no groups"):
        store.save_group("g", b"", None)
    assert store.get_group("g") is None
    store.forget_group("g")


def test_an_absent_broker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_results("rpc://", {"broker_url": "amqp://guest:s3cret@127.0.0.1:1//"})
    with pytest.raises(ResultStoreUnavailable, match="cannot be sent") as caught:
        store.store([reply("k", "SUCCESS", 1, "somewhere")])
    assert "s3cret" not in str(caught.value)
    with pytest.raises(BrokerUnavailable):
        store.listen()
    assert store.get(["k"]) == [None]
    store._replies._declared = True  # as if it had been there
    with pytest.raises(ResultStoreUnavailable, match="cannot be read"):
        store.get(["k"])
    monkeypatch.setattr("prefork.transports.amqp.rpc_results._PATIENCE_S", 0.3)
    with pytest.raises(ResultStoreUnavailable, match="cannot be read"):
        store.wait(["k"], 20.0)
    store.close()


def test_a_name_that_the_broker_refuses_is_an_error(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.transports.amqp.replies.fresh_id", lambda: "amq.reserved")
    replies = Replies(read_settings(rabbitmq.url, {}), None)
    with pytest.raises(BrokerUnavailable, match="refused"):
        replies.listen()
    assert not replies.listening
    replies.close()


def test_messages_that_are_no_replies_are_passed_over(open_rpc: OpenRpc, rabbitmq: RabbitMQ) -> None:
    caller, worker = open_rpc(), open_rpc()
    reply_to, key = caller.listen(), fresh()
    with amqp.Connection(f"127.0.0.1:{rabbitmq.port}") as connection:
        connection.channel().basic_publish(amqp.Message(b"stray"), routing_key=reply_to)
    worker.store([reply(key, "SUCCESS", 1, reply_to)])
    assert caller.wait([key], 20.0) == {key: document("SUCCESS", 1)}


@pytest.mark.parametrize("url", ["", "redis://h", "filesystem:///x"])
def test_another_broker_is_refused(url: str) -> None:
    with pytest.raises(UnsupportedTransport, match="AMQP"):
        check_options("rpc://", {"broker_url": url})


def test_another_serializer_is_refused(rabbitmq: RabbitMQ) -> None:
    with pytest.raises(UnsupportedTransport, match="yaml"):
        check_options("rpc://", {"broker_url": rabbitmq.url, "result_serializer": "yaml"})
    check_options("rpc://", {"broker_url": rabbitmq.url, "result_serializer": "application/json"})


# -- Celery -----------------------------------------------------------------------------------


@pytest.fixture(params=["json", "msgpack"])
def peer(request: pytest.FixtureRequest, rabbitmq: RabbitMQ) -> Iterator[celery.Celery]:
    app = celery.Celery("peer", set_as_current=False, broker=rabbitmq.url, backend="rpc://")
    app.conf.update(result_serializer=request.param, accept_content=[request.param])
    yield app
    app.close()


def test_celery_waits_for_what_we_send(peer: celery.Celery, open_rpc: OpenRpc) -> None:
    serializer = peer.conf.result_serializer
    dumps = json.dumps if serializer == "json" else msgpack.packb
    key = fresh()
    result = peer.send_task("anything", task_id=key, queue=f"unread.{fresh()}")
    content = {
        "status": "SUCCESS",
        "result": {"a": [1]},
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": key,
    }
    data = dumps(content)
    data = data.encode() if isinstance(data, str) else data
    open_rpc(result_serializer=serializer).store([StoredResult(key, data, 60.0, True, peer.thread_oid)])
    assert result.get(timeout=20) == {"a": [1]}
    peer.backend.result_consumer.stop()


def test_we_wait_for_what_celery_sends(peer: celery.Celery, open_rpc: OpenRpc) -> None:
    caller = open_rpc(result_serializer=peer.conf.result_serializer)
    key = fresh()
    request = Context(id=key, reply_to=caller.listen(), correlation_id=key, children=[])
    peer.backend.store_result(key, None, "STARTED", request=request)
    peer.backend.store_result(key, ValueError("bad"), "FAILURE", traceback="Traceback", request=request)
    (found,) = caller.wait([key], 20.0).values()
    loads = json.loads if peer.conf.result_serializer == "json" else msgpack.unpackb
    content = loads(found)
    assert (content["status"], content["result"]["exc_type"]) == ("FAILURE", "ValueError")
    assert content["task_id"] == key


def test_no_thread_is_left(open_rpc: OpenRpc) -> None:
    before = set(threading.enumerate())
    caller = open_rpc()
    caller.listen()
    caller.get(["k"])
    assert set(threading.enumerate()) <= before
