"""Turns, tables, slots and revocations on a real RabbitMQ: what dies, what is cut, what others left."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import termios
import threading
import time
import uuid
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp import AmqpTransport, Refused, open_transport
from prefork.transports.amqp.coordination import Agreements
from prefork.transports.amqp.parcels import Parcel
from prefork.transports.amqp.session import Session
from prefork.transports.amqp.settings import read_settings
from prefork.transports.amqp.slots import queue_of
from prefork.transports.amqp.turns import SHARDS, Entry, Turns, _living, digest, shard_of
from prefork.transports.errors import BrokerFull, BrokerUnavailable
from support.rabbitmq_server import RabbitMQ
from support.waiting import Background, eventually

from .conftest import Open

LONG_S = 600.0
TOKENS = 100_000
HAMMER_S = 80.0


@pytest.fixture
def name() -> str:
    return f"n.{uuid.uuid4().hex[:12]}"


def agreements(transport: AmqpTransport) -> Agreements:
    found = transport._agreements
    assert found is not None
    return found


def cut(session: Session) -> None:
    """End a connection under the feet of its user."""
    wire = session.link.current()
    assert wire is not None
    wire.sock.shutdown(socket.SHUT_RDWR)


def table_queue(name: str) -> str:
    return f"prefork.table.locks.{shard_of(digest(name))}"


# --- turns --------------------------------------------------------------------------------------------


def test_a_process_killed_in_its_turn_leaves_the_turn_to_others(rabbitmq: RabbitMQ, name: str) -> None:
    settings = read_settings(rabbitmq.url, {})
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with Turns(Session(settings, "t", beats=True)).turn(name):
                os.write(write, b"x")
                signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(ready, 1)
    session = Session(settings, "t", beats=True)
    waiting = Background(lambda: _enter(session, name))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert waiting.result(5.0)
    os.close(ready)
    os.close(write)
    session.close()


def _enter(session: Session, name: str) -> bool:
    with Turns(session).turn(name):
        return True


def test_who_waits_for_too_long_is_told_where(rabbitmq: RabbitMQ, name: str) -> None:
    inside = Session(read_settings(rabbitmq.url, {}), "t", beats=True)
    outside = Session(read_settings(rabbitmq.url, {"publish_deadline": 2.0}), "t", beats=True)
    with Turns(inside).turn(name):
        with pytest.raises(BrokerUnavailable):
            _enter(outside, name)
    assert _enter(outside, name)
    inside.close()
    outside.close()


def test_a_task_that_is_interrupted_while_it_waits_stands_in_nobodys_way(
    rabbitmq: RabbitMQ, name: str
) -> None:
    class TimeIsUp(Exception):
        pass

    def end(*_: object) -> None:
        raise TimeIsUp

    settings = read_settings(rabbitmq.url, {})
    inside, outside, third = (Session(settings, "t", beats=True) for _ in range(3))
    before = signal.signal(signal.SIGALRM, end)
    try:
        with Turns(inside).turn(name):
            # Again after a second, should the first fall into a finalizer, where exceptions get lost.
            with pytest.raises(TimeIsUp):
                signal.setitimer(signal.ITIMER_REAL, 0.2, 1.0)
                _enter(outside, name)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        assert _enter(third, name)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        for one in (inside, outside, third):
            one.close()


def test_a_thread_waits_for_another_of_its_process_no_longer_than_the_deadline(
    rabbitmq: RabbitMQ, name: str
) -> None:
    session = Session(read_settings(rabbitmq.url, {"publish_deadline": 0.2}), "t", beats=True)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with session.use():
            entered.set()
            leave.wait(10.0)

    holding = Background(hold)
    assert entered.wait(5.0)
    with pytest.raises(BrokerUnavailable, match="another thread"):
        _enter(session, name)
    leave.set()
    holding.result()
    session.close()


def test_a_connection_that_nobody_uses_is_closed_and_opened_again(rabbitmq: RabbitMQ, name: str) -> None:
    session = Session(read_settings(rabbitmq.url, {}), "t", beats=True, idle_s=0.1)
    assert _enter(session, name)
    eventually(lambda: not session.link.is_open)
    assert _enter(session, name)
    session.close()
    assert not session.link.is_open


# --- tables -------------------------------------------------------------------------------------------


def test_of_two_tables_that_a_death_left_the_newer_holds(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    assert transport.lock(name, "mine", LONG_S) is None
    old = b'{"version":0,"entries":{"%s":[9999999999.0,600.0,"old"]}}' % digest(name).encode()
    transport._publisher.publish([Parcel("", table_queue(name), {"delivery_mode": 2}, old)])
    assert transport.locked(name) == "mine"
    assert open_amqp().unlock(name, "mine") is True
    assert transport.locked(name) is None
    assert transport.depth(table_queue(name)).ready <= 1


def test_a_message_that_is_no_table_is_dropped_and_said(
    open_amqp: Open, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = open_amqp()
    transport.lock(name, "mine", LONG_S)
    transport._publisher.publish([Parcel("", table_queue(name), {}, b"\xffgarbage")])
    assert transport.relock(name, "other", LONG_S) == "mine"
    assert "none of prefork's" in caplog.text
    assert transport.locked(name) == "other"


def test_a_table_without_entries_leaves_no_message(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    transport._publisher.ask(lambda channel: channel.queue_delete(table_queue(name)))
    transport.lock(name, "mine", LONG_S)
    assert transport.depth(table_queue(name)).ready == 1
    assert transport.unlock(name, "mine")
    assert transport.depth(table_queue(name)).ready == 0


def test_a_table_that_cannot_be_written_stays_as_it_was(
    open_amqp: Open, rabbitmq: RabbitMQ, name: str
) -> None:
    transport = open_amqp(publish_deadline=2.0)
    assert transport.lock(name, "mine", LONG_S) is None
    rabbitmq.control("set_vm_memory_high_watermark", "0.0001")
    try:
        with pytest.raises(BrokerFull):
            eventually(lambda: transport.lock(name, "mine", LONG_S) is not None)
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.6")
    assert eventually(lambda: _holder(transport, name)) == "mine"
    assert _holder(open_amqp(), name) == "mine"


def _holder(transport: AmqpTransport, name: str) -> str | None:
    try:
        return transport.lock(name, "other", LONG_S)
    except BrokerUnavailable:
        return None


def test_locks_go_on_after_their_connection_was_cut(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    assert transport.lock(name, "mine", LONG_S) is None
    cut(agreements(transport)._session)
    assert transport.locked(name) == "mine"


def test_without_confirms_tables_are_confirmed_all_the_same(open_amqp: Open, name: str) -> None:
    transport = open_amqp(confirm_publish=False)
    assert transport.lock(name, "mine", LONG_S) is None
    assert open_amqp().locked(name) == "mine"
    assert agreements(transport)._own_publisher is not None


def test_a_queue_of_that_name_that_is_something_else_is_refused(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    transport._publisher.declare(
        lambda _, channel: channel.queue_declare(queue_of(name), durable=True, auto_delete=False)
    )
    with pytest.raises(Refused, match="what workers agree by"):
        transport.take_slot(name, 1, "w", "o/1")
    assert transport.lock(name, "mine", LONG_S) is None


@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.tuples(st.floats(0, 1e6), st.floats(0.1, 1e6)),
    ),
    st.floats(0, 2e6),
)
def test_nothing_lives_longer_than_it_was_given_whatever_the_clock_does(
    made: dict[str, tuple[float, float]], now_wall_s: float
) -> None:
    entries = {key: Entry(at + given_s, given_s) for key, (at, given_s) in made.items()}
    living = _living(entries, now_wall_s)
    for key, entry in entries.items():
        assert (key in living) is (entry.ends_wall_s > now_wall_s)
    for key, entry in living.items():
        assert 0 < entry.ends_wall_s - now_wall_s <= entries[key].given_s * (1 + 1e-6) + 1e-6


@given(st.text())
def test_every_name_belongs_to_one_table(text: str) -> None:
    assert 0 <= shard_of(digest(text)) < SHARDS
    assert digest(text) == digest(text)


def test_kills_at_any_moment_lose_no_table(open_amqp: Open, rabbitmq: RabbitMQ, name: str) -> None:
    """A table that got lost would free the lock, and fill the bucket anew."""
    assert open_amqp().lock(name, "first", LONG_S) is None
    told, tell = os.pipe()
    seed = random.Random(7)
    rounds = 0
    begun_s = time.monotonic()
    # On a busy machine it takes them longer to begin.
    while rounds < 12 or _unread(told) <= 20 * len(b"1 "):
        told_n = _unread(told) // len(b"1 ")
        assert time.monotonic() < begun_s + HAMMER_S, f"{told_n} tokens in {rounds} rounds, {HAMMER_S} s"
        rounds += 1
        pids = [_hammer(rabbitmq.url, name, tell) for _ in range(3)]
        for pid in pids:
            time.sleep(seed.uniform(0.02, 0.15))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    os.close(tell)
    with os.fdopen(told, "rb") as lines:
        said = lines.read().split()
    assert set(said) == {b"1"}
    assert open_amqp().lock(name, "last", LONG_S) == "first"
    left = open_amqp().take_tokens(name, 1e-6, TOKENS, TOKENS).tokens
    assert left + len(said) <= TOKENS
    assert open_amqp().take_tokens(name, 1e-6, TOKENS, 1).tokens == 0


def _unread(fd: int) -> int:
    """How many bytes wait in a pipe."""
    found = array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, found)
    return found[0]


def _hammer(url: str, name: str, tell: int) -> int:
    """A process that takes tokens and tries the lock until it is killed; it tells of each token."""
    pid = os.fork()
    if pid == 0:
        try:
            transport = open_transport(url, {})
            while True:
                taken = transport.take_tokens(name, 1e-6, TOKENS, 1).tokens
                os.write(tell, b"1 " if taken and transport.lock(name, "other", LONG_S) == "first" else b"0 ")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    return pid


# --- slots --------------------------------------------------------------------------------------------


def test_slots_lost_with_a_connection_are_taken_again(
    open_amqp: Open, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport, other = open_amqp(), open_amqp()
    assert transport.take_slot(name, 1, "w", "o/1")
    cut(agreements(transport).slots._session)
    assert transport.take_slot(name, 1, "w", "o/1")
    assert "taken again" in caplog.text
    assert not other.take_slot(name, 1, "w", "p/1")
    transport.free_slot(name, "o/1")
    # As soon as the broker has noticed that the first connection is gone.
    assert eventually(lambda: other.take_slot(name, 1, "w", "p/1"))


def test_slots_lost_with_their_queue_are_taken_again(open_amqp: Open, name: str) -> None:
    transport, other = open_amqp(), open_amqp()
    assert transport.take_slot(name, 1, "w", "o/1")
    transport._publisher.ask(lambda channel: channel.queue_delete(queue_of(name)))

    def again() -> bool:
        transport.free_slot(name, "nobody")
        return not other.take_slot(name, 1, "w", "p/1") or bool(other.free_slot(name, "p/1"))

    assert eventually(again)


def test_a_fork_holds_none_of_its_parents_slots(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    assert transport.take_slot(name, 1, "w", "o/1")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            transport.free_slot(name, "o/1")
            status = int(transport.take_slot(name, 1, "w", "o/1"))
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert not open_amqp().take_slot(name, 1, "w", "p/1")


def test_an_owner_of_this_process_gives_back_all_that_it_holds(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    for number in range(3):
        assert transport.take_slot(f"{name}.{number}", 1, "w", "o/1")
    assert transport.take_slot(f"{name}.x", 1, "w", "oo/1")
    assert transport.free_slots_of("o") == 3
    assert transport.free_slots_of("o") == 0
    assert open_amqp().take_slot(f"{name}.0", 1, "w", "p/1")
    assert not open_amqp().take_slot(f"{name}.x", 1, "w", "p/1")


def test_slots_that_are_free_leave_no_trace_but_an_empty_queue(open_amqp: Open, name: str) -> None:
    transport = open_amqp()
    transport.take_slot(name, 1, "w", "o/1")
    transport.free_slot(name, "o/1")
    found = transport._publisher.ask(lambda channel: channel.queue_declare(queue_of(name), passive=True))
    assert (found.message_count, found.consumer_count) == (0, 0)
