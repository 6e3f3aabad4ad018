"""The bridge at work: peers on the same transport, waiting, recovery, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest

from prefork.transports.base import (
    DeadLetter,
    Delivery,
    Depth,
    Message,
    Outcome,
    Outgoing,
    QueueDeclaration,
    Verdict,
)
from prefork.transports.envelope import decode, encode
from prefork.transports.errors import BrokerUnavailable, OwnerLost
from prefork.transports.kombu import KombuTransport, open_transport
from prefork.transports.kombu import line as line_module
from prefork.transports.kombu.documents import CAUSES, CRASHES, QUEUE, REASON
from prefork.transports.kombu.line import Line
from prefork.transports.kombu.outbox import GRAVEYARD, PARKING
from support.forked import in_child
from support.redis_server import RedisServer
from support.waiting import Background, eventually, readable

POLLING = {"polling_interval": 0.01}
Open = Callable[..., KombuTransport]


@pytest.fixture
def opened() -> Iterator[list[KombuTransport]]:
    found: list[KombuTransport] = []
    yield found
    for transport in reversed(found):
        transport.close()


@pytest.fixture
def open_files(tmp_path: Path, opened: list[KombuTransport]) -> Open:
    """Handles on a directory in kombu's format."""

    def _open(**options: Any) -> KombuTransport:
        opened.append(open_transport(f"kombu+filesystem://{tmp_path}/broker", {**POLLING, **options}))
        return opened[-1]

    return _open


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def open_redis(redis: RedisServer, opened: list[KombuTransport]) -> Open:
    """Handles on a broker that keeps what is not acknowledged: kombu's own Redis transport."""
    prefix = f"{os.urandom(4).hex()}."

    def _open(**options: Any) -> KombuTransport:
        opened.append(
            open_transport(f"kombu+{redis.url}", {**POLLING, "global_keyprefix": prefix, **options})
        )
        return opened[-1]

    return _open


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [one.document for one in deliveries]


# -- peers ------------------------------------------------------------------------------------


def celery_app(tmp_path: Path, scheme: str) -> celery.Celery:
    app = celery.Celery("peer", set_as_current=False)
    if scheme == "filesystem":
        folder = str(tmp_path / "broker")
        os.makedirs(folder, exist_ok=True)
        app.conf.broker_url = "filesystem://"
        app.conf.broker_transport_options = {
            "data_folder_in": folder,
            "data_folder_out": folder,
            "control_folder": f"{folder}/control",
        }
    else:
        app.conf.broker_url = f"sqla+sqlite:///{tmp_path}/queue.db"
    return app


def our_url(tmp_path: Path, scheme: str) -> str:
    path = f"{tmp_path}/broker" if scheme == "filesystem" else f"{tmp_path}/queue.db"
    return f"kombu+filesystem://{path}" if scheme == "filesystem" else f"sqla+sqlite:///{path}"


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("scheme", ["filesystem", "sqla"])
def test_we_read_what_celery_sends(
    tmp_path: Path, opened: list[KombuTransport], scheme: str, compression: str | None
) -> None:
    app = celery_app(tmp_path, scheme)
    app.send_task(
        "shop.add", args=(1, 2), task_id="id", priority=3, compression=compression, headers={"own": 1}
    )
    transport = open_transport(our_url(tmp_path, scheme), POLLING)
    opened.append(transport)
    (delivery,) = transport.consumer(["celery"], "o", "w").reserve(5, timeout_s=5.0)
    message = decode(delivery.document).message()
    assert (message.headers["task"], message.headers["id"], message.headers["own"]) == ("shop.add", "id", 1)
    assert (message.properties["correlation_id"], delivery.priority) == ("id", 3)
    assert ("compression" in message.headers) is (compression is not None)
    if compression is None:
        assert json.loads(message.body)[:2] == [[1, 2], {}]


@pytest.mark.parametrize("scheme", ["filesystem", "sqla"])
def test_celery_reads_what_we_send(tmp_path: Path, opened: list[KombuTransport], scheme: str) -> None:
    transport = open_transport(our_url(tmp_path, scheme), POLLING)
    opened.append(transport)
    headers = {"task": "shop.add", "id": "id", "eta": None}
    sent = Message(b"[[1, 2], {}, {}]", "application/json", "utf-8", headers, {"correlation_id": "id"})
    transport.send([Outgoing("celery", encode(sent), priority=4)])
    app = celery_app(tmp_path, scheme)
    with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        message = queue.get(timeout=5)
        message.ack()
    assert (message.decode(), message.headers["task"]) == ([[1, 2], {}, {}], "shop.add")
    assert (message.properties["correlation_id"], message.properties["priority"]) == ("id", 4)


def test_a_message_that_celery_still_writes_is_left_alone(tmp_path: Path, open_files: Open) -> None:
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"whole")])
    (whole,) = (tmp_path / "broker").glob("*.q.msg")
    data = whole.read_bytes()
    (tmp_path / "broker" / "1_x.q.msg").write_bytes(b"")  # made, and nothing is in it
    assert documents(consumer.reserve(5)) == [b"whole"]
    import fcntl

    with (tmp_path / "broker" / "2_x.q.msg").open("wb", buffering=0) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        file.write(data[:20])
        assert consumer.reserve(5) == []
        file.write(data[20:])
    assert documents(consumer.reserve(5)) == [b"whole"]


def test_a_file_that_is_no_message_is_put_aside(tmp_path: Path, open_files: Open) -> None:
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    (tmp_path / "broker" / "0_x.q.msg").write_bytes(b"{half")
    transport.send([Outgoing("q", b"good")])
    with pytest.raises(BrokerUnavailable, match="JSONDecodeError"):
        consumer.reserve(5)
    assert documents(consumer.reserve(5)) == [b"good"]
    assert (tmp_path / "broker" / "0_x.q.msg.unreadable").read_bytes() == b"{half"


def test_processed_messages_are_kept_where_kombu_keeps_them(tmp_path: Path, open_files: Open) -> None:
    processed = tmp_path / "processed"
    processed.mkdir()
    transport = open_files(store_processed=True, processed_folder=str(processed))
    transport.send([Outgoing("q", b"m")])
    assert len(transport.consumer(["q"], "o", "w").reserve(1)) == 1
    assert len(list(processed.iterdir())) == 1


def test_queues_are_bound_as_they_are_declared(tmp_path: Path, open_files: Open) -> None:
    declared = QueueDeclaration("audit", exchange="events", exchange_type="topic", routing_key="order.#")
    transport = open_files(declarations={"audit": declared})
    assert transport.queues() == ["audit"]
    consumer = transport.consumer(["audit"], "o", "w")
    app = celery_app(tmp_path, "filesystem")
    with app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish({"a": 1}, exchange=declared_exchange(), routing_key="order.paid")
    (delivery,) = consumer.reserve(1, timeout_s=5.0)
    assert json.loads(decode(delivery.document).body) == {"a": 1}


def declared_exchange() -> Any:
    from kombu import Exchange

    return Exchange("events", type="topic")


# -- waiting ----------------------------------------------------------------------------------


@pytest.fixture
def clock() -> list[float]:
    """The Unix time of a transport, which a test sets."""
    return [time.time()]


@pytest.fixture
def timed(open_files: Open, opened: list[KombuTransport], clock: list[float]) -> KombuTransport:
    """A handle on the directory with that clock."""
    opened.append(KombuTransport(open_files()._address, wall=lambda: clock[0]))
    return opened[-1]


def test_a_deferred_message_waits_and_comes_home(timed: KombuTransport, clock: list[float]) -> None:
    transport = timed
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m", priority=5)])
    (early,) = consumer.reserve(1)
    due_wall_s = clock[0] + 3600.0
    assert consumer.settle([Outcome(early.tag, Verdict.DEFER, due_wall_s=due_wall_s)]) == [True]
    assert eventually(transport.promote) == due_wall_s
    clock[0] = due_wall_s - 0.001
    assert transport.promote() == due_wall_s
    assert consumer.reserve(1) == []
    assert transport.depth("q") == Depth(ready=0, delayed=1, in_work=0)
    clock[0] = due_wall_s
    assert transport.promote() is None
    (late,) = consumer.reserve(1)
    assert (late.document, late.queue, late.priority) == (b"m", "q", 5)


def test_a_deferred_message_keeps_its_record(open_files: Open) -> None:
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    (first,) = consumer.reserve(1)
    consumer.settle([Outcome(first.tag, Verdict.REQUEUE, crashed=True, causes=("signal 9",))])
    (second,) = consumer.reserve(1)
    consumer.settle([Outcome(second.tag, Verdict.DEFER, due_wall_s=0.0)])
    third = eventually(lambda: transport.promote() or consumer.reserve(1))[0]
    assert (third.document, third.crashes) == (b"m", 1)


def test_closing_sends_home_what_waits(open_files: Open) -> None:
    first, second = open_files(), open_files()
    consumer = second.consumer(["q"], "o", "w")
    first.send([Outgoing("q", b"m")])
    (early,) = consumer.reserve(1)
    consumer.settle([Outcome(early.tag, Verdict.DEFER, due_wall_s=time.time() + 3600)])
    assert first.promote() is not None
    assert consumer.reserve(1) == []
    first.close()
    assert documents(consumer.reserve(1)) == [b"m"]


def test_what_waited_in_a_process_that_died_is_taken_over(open_files: Open, tmp_path: Path) -> None:
    clock = [1000.0]
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    (early,) = consumer.reserve(1)
    consumer.settle([Outcome(early.tag, Verdict.DEFER, due_wall_s=time.time() + 3600)])

    def hold_and_die() -> None:
        open_files().promote()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match="-9"):
        in_child(hold_and_die)
    assert transport.promote() is None
    clock[0] = time.time() + 60
    later = KombuTransport(transport._address, wall=lambda: clock[0])
    assert later.recover_lapsed().returned == 1
    # The lease of this process was over as well by that clock: it begins anew.
    assert eventually(transport.promote) is not None
    assert transport.depth("q").delayed == 1


def test_a_message_in_the_parking_queue_that_nobody_put_off_is_buried(open_files: Open) -> None:
    transport = open_files()
    transport.send([Outgoing(PARKING, b"stray")])
    assert transport.promote() is None
    (letter,) = transport.consumer([GRAVEYARD], "o", "w").reserve(1)
    assert letter.document == b"stray"


# -- the ends of a message --------------------------------------------------------------------


def test_dead_letters_can_be_read_with_the_tools_of_the_broker(tmp_path: Path, open_files: Open) -> None:
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    document = encode(Message(b"[]", "application/json", "utf-8", {"id": "x"}, {}))
    transport.send([Outgoing("q", document)])
    (held,) = consumer.reserve(1)
    assert consumer.settle([Outcome(held.tag, Verdict.DEAD, reason="unknown-task", causes=("why",))]) == [
        True
    ]
    app = celery_app(tmp_path, "filesystem")
    with app.connection_for_read() as connection, connection.SimpleQueue(GRAVEYARD) as queue:
        letter = queue.get(timeout=5)
        letter.ack()
    assert letter.headers == {"id": "x", QUEUE: "q", REASON: "unknown-task", CRASHES: 0, CAUSES: ["why"]}
    assert list(transport.dead_letters()) == []
    assert (transport.dead_get("k"), transport.dead_replay("k"), transport.dead_drop("k")) == (
        None,
        False,
        False,
    )


def test_the_crash_limit_ends_a_message(open_files: Open) -> None:
    transport = open_files()
    transport.send([Outgoing("q", b"poison")])
    letters: tuple[DeadLetter, ...] = ()
    for number in range(3):
        dead = transport.consumer(["q"], f"o{number}", "w")
        (held,) = dead.reserve(1)
        assert held.crashes == number
        recovery = transport.recover(dead.owner, running=held.tag, cause=f"signal {number}", max_crashes=3)
        letters = recovery.dead
    (letter,) = letters
    assert (letter.document, letter.crashes, letter.reason) == (b"poison", 3, "crashes")
    assert letter.causes == ("signal 0", "signal 1", "signal 2")
    assert transport.ready(["q"]) == 0


@pytest.mark.parametrize("kind", ["files", "redis"])
def test_nothing_is_lost_when_the_broker_fails_while_something_is_settled(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport: KombuTransport = request.getfixturevalue(f"open_{kind}")()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    (held,) = consumer.reserve(1, timeout_s=5.0)
    publish, calls = consumer._line.publish, []

    def fails_second(queue: str, parts: Any) -> None:
        calls.append(queue)
        if len(calls) == 2:
            raise BrokerUnavailable("away", outcome_unknown=True)
        publish(queue, parts)

    monkeypatch.setattr(consumer._line, "publish", fails_second)
    follow_ups = (Outgoing("next", b"1"), Outgoing("next", b"2"))
    with pytest.raises(BrokerUnavailable):
        consumer.settle([Outcome(held.tag, follow_ups=follow_ups)])
    assert consumer.fetch(held.tag) == held
    assert consumer.settle([Outcome(held.tag, follow_ups=follow_ups)]) == [True]
    listener = transport.consumer(["next"], "o2", "w")
    assert documents(listener.reserve(5)) == [b"1", b"2"]  # what was sent is not sent again
    transport.send([Outgoing("q", b"n")])
    (other,) = consumer.reserve(1, timeout_s=5.0)
    calls.append("")
    monkeypatch.setattr(consumer._line, "publish", lambda queue, parts: fails())
    monkeypatch.setattr(consumer._line, "give_back", lambda message: fails())
    with pytest.raises(BrokerUnavailable):
        consumer.give_back([other.tag])
    assert consumer.fetch(other.tag) == other
    monkeypatch.undo()


def fails() -> None:
    raise BrokerUnavailable("away")


def test_a_recovery_that_fails_can_be_done_again(open_files: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = open_files()
    transport.send([Outgoing("q", b"%d" % number) for number in range(3)])
    dead = transport.consumer(["q"], "o", "w")
    held = dead.reserve(3)
    monkeypatch.setattr(transport._line, "publish", lambda queue, parts: fails())
    for running in (None, held[0].tag):
        with pytest.raises(BrokerUnavailable):
            transport.recover("o", running=running, cause="signal 9")
    monkeypatch.undo()
    assert transport.recover("o", running=held[1].tag, cause="signal 9").returned == 3
    received = transport.consumer(["q"], "o2", "w").reserve(5)
    assert {one.document: one.crashes for one in received} == {b"0": 0, b"1": 1, b"2": 0}


def test_a_wait_home_that_fails_is_tried_again(
    timed: KombuTransport, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = timed
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    (early,) = consumer.reserve(1)
    consumer.settle([Outcome(early.tag, Verdict.DEFER, due_wall_s=clock[0] + 60.0)])
    assert eventually(transport.promote) is not None
    clock[0] += 61.0
    assert transport._parking is not None
    monkeypatch.setattr(transport._parking._line, "publish", lambda queue, parts: fails())
    with pytest.raises(BrokerUnavailable):
        transport.promote()
    monkeypatch.undo()
    assert transport.promote() is None
    assert documents(consumer.reserve(1)) == [b"m"]


def test_a_message_that_comes_to_an_owner_just_recovered_goes_back(
    open_files: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    monkeypatch.setattr(consumer._holdings, "alive", lambda: True)
    transport.recover("o")
    with pytest.raises(OwnerLost):
        consumer.reserve(1)
    assert documents(transport.consumer(["q"], "o2", "w").reserve(1)) == [b"m"]


def test_messages_already_taken_are_handed_out_although_the_next_cannot_be_read(
    open_files: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = open_files()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"m")])
    get, calls = consumer._line.get, []

    def once(queue: str) -> Any:
        calls.append(queue)
        return get(queue) if len(calls) == 1 else fails()

    monkeypatch.setattr(consumer._line, "get", once)
    assert documents(consumer.reserve(2)) == [b"m"]
    with pytest.raises(BrokerUnavailable):
        consumer.reserve(2)


# -- a broker that keeps what is not acknowledged ---------------------------------------------


def test_the_broker_has_what_is_not_acknowledged(open_redis: Open) -> None:
    transport = open_redis()
    consumer = transport.consumer(["q"], "o", "w")
    transport.send([Outgoing("q", b"a"), Outgoing("q", b"b")])
    first, second = consumer.reserve(2, timeout_s=5.0)
    assert transport.depth("q") == Depth(ready=0, delayed=0, in_work=2)
    assert consumer.settle([Outcome(first.tag)]) == [True]
    assert transport.recover("somebody else") == transport.recover_lapsed()
    attached = transport.attach("o")
    assert attached.settle([Outcome(second.tag)]) == [False]
    assert (attached.give_back([second.tag]), attached.fetch(second.tag)) == (0, None)
    with pytest.raises(OwnerLost):
        attached.reserve(1)
    attached.close()
    consumer.close()
    assert documents(transport.consumer(["q"], "o2", "w").reserve(2, timeout_s=5.0)) == [b"b"]


def test_a_broker_that_cannot_be_reached_is_an_error_without_its_password(
    opened: list[KombuTransport],
) -> None:
    options = {**POLLING, "socket_connect_timeout": 0.5}
    transport = open_transport("kombu+pyamqp://app:s3cret@127.0.0.1:1", options)
    opened.append(transport)
    with pytest.raises(BrokerUnavailable) as caught:
        transport.send([Outgoing("q", b"m")])
    assert not caught.value.outcome_unknown  # nobody was told of the message
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__
    for attempt in (lambda: transport.ready(["q"]), lambda: transport.consumer(["q"], "o", "w")):
        with pytest.raises(BrokerUnavailable):
            attempt()


def test_a_line_works_again_after_an_error(open_files: Open, tmp_path: Path) -> None:
    transport = open_files()
    transport.send([Outgoing("q", b"a")])
    folder = tmp_path / "broker"
    folder.rename(tmp_path / "away")
    with pytest.raises(BrokerUnavailable):
        transport.send([Outgoing("q", b"lost")])
    eventually(lambda: not folder.exists() or folder.rmdir() is None)
    (tmp_path / "away").rename(folder)
    transport.send([Outgoing("q", b"b")])
    assert documents(transport.consumer(["q"], "o", "w").reserve(5)) == [b"a", b"b"]


# -- processes --------------------------------------------------------------------------------


def test_what_a_killed_process_held_is_returned(open_files: Open) -> None:
    transport = open_files()
    transport.send([Outgoing("q", b"%d" % number) for number in range(4)])

    def hold_and_die() -> None:
        consumer = open_files().consumer(["q"], "killed", "w")
        first, *_rest = consumer.reserve(3)
        consumer.settle([Outcome(first.tag, follow_ups=(Outgoing("q", b"next"),))])
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match="-9"):
        in_child(hold_and_die)
    assert transport.depth("q") == Depth(ready=2, delayed=0, in_work=2)
    assert transport.recover("killed").returned == 2
    received = documents(transport.consumer(["q"], "o", "w").reserve(9))
    assert sorted(received) == [b"1", b"2", b"3", b"next"]


def test_a_worker_of_the_same_host_takes_over(open_files: Open) -> None:
    transport = open_files()
    transport.send([Outgoing("q", b"m")])
    transport.consumer(["q"], "lost", "vanished").reserve(1)
    transport.heartbeat("vanished", 0.01)
    eventually(lambda: transport.recover_lapsed().returned == 1)
    assert transport.owners("vanished") == []
    assert transport.ready(["q"]) == 1


@pytest.mark.parametrize("kind", ["files", "redis"])
def test_a_forked_process_opens_its_own(kind: str, request: pytest.FixtureRequest) -> None:
    open_one: Open = request.getfixturevalue(f"open_{kind}")
    transport = open_one()
    transport.send([Outgoing("q", b"parent")])

    def child() -> None:
        with pytest.raises(BrokerUnavailable, match="opens its own"):
            transport.send([Outgoing("q", b"no")])
        transport.close()
        open_one().send([Outgoing("q", b"child")])

    in_child(child)
    received = transport.consumer(["q"], "o", "w").reserve(2, timeout_s=5.0)
    assert documents(received) == [b"parent", b"child"]


def test_messages_of_one_process_stay_in_it(opened: list[KombuTransport]) -> None:
    opened.append(open_transport("kombu+memory://", POLLING))

    def child() -> None:
        with pytest.raises(BrokerUnavailable, match="cannot see it"):
            opened[0].send([Outgoing("q", b"no")])

    in_child(child)


def test_a_watch_fires_at_intervals(open_files: Open) -> None:
    watch = open_files().watch(["q"])
    for _ in range(3):
        assert readable(watch.fileno())
        watch.drain()
    watch.close()
    watch.close()


def test_a_waiting_consumer_looks_at_all_its_queues(open_files: Open) -> None:
    transport = open_files()
    consumer = transport.consumer(["a", "b"], "o", "w")
    waiting = Background(lambda: consumer.reserve(2, timeout_s=10.0))
    open_files().send([Outgoing("b", b"m")])
    assert documents(waiting.result(5.0)) == [b"m"]


def consume(transport: KombuTransport) -> None:
    transport.consumer(["celery"], f"owner{os.getpid()}", "worker")


def send(transport: KombuTransport) -> None:
    transport.send([Outgoing("celery", b"m")])


def count(transport: KombuTransport) -> None:
    transport.depth("celery")


def read(transport: KombuTransport) -> None:
    transport._line.get("celery")


@pytest.mark.parametrize("use", [consume, send, count, read])
def test_processes_that_open_a_new_database_at_the_same_moment_stand_in_nobodys_way(
    tmp_path: Path, use: Callable[[KombuTransport], None]
) -> None:
    for number in range(12):
        begin, go = os.pipe()
        children = [_opens(f"sqla+sqlite:///{tmp_path}/{number}.db", use, begin, go) for _ in range(4)]
        os.close(begin)
        os.close(go)  # now
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4


def _opens(url: str, use: Callable[[KombuTransport], None], begin: int, go: int) -> int:
    """A process that uses a transport as soon as the pipe is closed."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(go)
        os.read(begin, 1)
        use(open_transport(url, POLLING))
        code = 0
    except BrokerUnavailable as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(code)


class Refusing:
    """A broker that refuses every declaration, after so many seconds of the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after_s: float = 0.0) -> None:
        self.tries: list[str] = []
        self._after_s = after_s
        self._passed_s = 0.0
        monkeypatch.setattr(Line, "_declare", lambda line, channel, queue: self._refuse(queue))
        monkeypatch.setattr(line_module, "mono_s", lambda: self._passed_s)

    def _refuse(self, queue: str) -> None:
        self.tries.append(queue)
        self._passed_s += self._after_s
        raise LookupError("no room")


@pytest.mark.parametrize("use", [consume, send, read])
def test_what_cannot_be_declared_at_all_is_an_error_in_the_end(
    opened: list[KombuTransport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[KombuTransport], None],
) -> None:
    broker = Refusing(monkeypatch)
    opened.append(open_transport(f"sqla+sqlite:///{tmp_path}/q.db", POLLING))
    with pytest.raises(BrokerUnavailable, match="no room") as caught:
        use(opened[0])
    assert broker.tries == ["celery"] * 4
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize(
    ("url", "after_s"), [("sqla+sqlite:///{folder}/q.db", 5.0), ("kombu+filesystem://{folder}/broker", 0.0)]
)
def test_a_broker_that_is_away_is_not_asked_again(
    opened: list[KombuTransport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, after_s: float
) -> None:
    broker = Refusing(monkeypatch, after_s)
    opened.append(open_transport(url.format(folder=tmp_path), POLLING))
    with pytest.raises(BrokerUnavailable, match="no room"):
        send(opened[0])
    assert broker.tries == ["celery"]
