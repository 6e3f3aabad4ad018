"""Conformance: limits, locks and revocations that workers share. See `transports.coordination`.

A handle stands for a worker: every test that needs several opens several.
"""

from __future__ import annotations

import os
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

from prefork.transports.base import Transport
from prefork.transports.coordination import Coordinates, is_of
from support.forked import in_child
from support.implementations import Implementation
from support.waiting import Background, eventually

from .conftest import Broker

pytestmark = pytest.mark.needs("coordinates")

LONG_S = 600.0
SLOW = 1 / 3600
"""A rate that gives nothing while a test runs."""
# Every character that means something to a shell, a path, a glob or a broker, up to the limit of 255 bytes.
NAMES = ["a", "tasks.add", "../up/and:away*?[x]#{y}%00 \n\"'", "ünïcödé-" * 20, "x" * 255, "/", ".", "%", ""]


class Opened:
    """One handle with its worker, which has a lease."""

    def __init__(self, broker: Broker, worker: str) -> None:
        transport = broker.open()
        assert isinstance(transport, Coordinates)
        self.port: Coordinates = transport
        self.transport: Transport = transport
        self.worker = broker.unique(worker)
        self.owner = f"{self.worker}.1.1"
        transport.heartbeat(self.worker, LONG_S)

    def take(self, name: str, limit: int, number: int = 0, *, owner: str = "") -> bool:
        return self.port.take_slot(name, limit, self.worker, f"{owner or self.owner}/{number}")

    def free(self, name: str, number: int = 0) -> None:
        self.port.free_slot(name, f"{self.owner}/{number}")


@pytest.fixture
def one(broker: Broker) -> Opened:
    return Opened(broker, "one")


@pytest.fixture
def other(broker: Broker) -> Opened:
    return Opened(broker, "other")


@pytest.fixture
def name(broker: Broker) -> str:
    return broker.unique("name")


@pytest.mark.parametrize(
    ("holder", "owner", "mine"),
    [
        ("w.1.1", "w.1.1", True),
        ("w.1.1/7", "w.1.1", True),
        ("w.1.10/7", "w.1.1", False),
        ("w.1.1", "w.1.10", False),
        ("w.1.1/7", "w.1", False),
    ],
)
def test_a_holder_belongs_to_the_owner_before_the_slash(
    implementation: Implementation, holder: str, owner: str, mine: bool
) -> None:
    assert is_of(holder, owner) is mine


# -- buckets ------------------------------------------------------------------------------------


def test_a_new_bucket_is_full(one: Opened, name: str) -> None:
    assert one.port.take_tokens(name, SLOW, 5, 3) == (3, 0.0)
    tokens, retry_after_s = one.port.take_tokens(name, SLOW, 5, 3)
    assert tokens == 2
    assert 3500 < retry_after_s <= 3600


def test_workers_share_a_bucket(one: Opened, other: Opened, name: str) -> None:
    assert one.port.take_tokens(name, SLOW, 2, 1).tokens == 1
    assert other.port.take_tokens(name, SLOW, 2, 2).tokens == 1
    assert one.port.take_tokens(name, SLOW, 2, 1).tokens == 0


def test_buckets_of_different_names_are_different(one: Opened, broker: Broker) -> None:
    for name in NAMES:
        unique = (name + uuid.uuid4().hex[:8])[-200:] if len(name) < 100 else name[:-8] + uuid.uuid4().hex[:8]
        assert one.port.take_tokens(unique, SLOW, 1, 1).tokens == 1
        assert one.port.take_tokens(unique, SLOW, 1, 1).tokens == 0


def test_an_empty_bucket_fills_at_its_rate(one: Opened, name: str) -> None:
    rate = 2.0
    began_mono_s = time.monotonic()
    assert one.port.take_tokens(name, rate, 1, 1).tokens == 1
    tokens, retry_after_s = one.port.take_tokens(name, rate, 1, 1)
    if not tokens:
        assert 0.0 < retry_after_s <= 1 / rate
        eventually(lambda: one.port.take_tokens(name, rate, 1, 1).tokens, every_s=0.001)
    # However long the machine stood still in between, nobody had a second one sooner.
    assert time.monotonic() - began_mono_s > 0.8 / rate


def test_an_empty_bucket_says_when_there_will_be_a_token(one: Opened, name: str) -> None:
    rate = 1 / 60  # nothing comes while a test runs
    assert one.port.take_tokens(name, rate, 1, 1).tokens == 1
    tokens, retry_after_s = one.port.take_tokens(name, rate, 1, 1)
    assert tokens == 0
    assert 0.0 < retry_after_s <= 1 / rate


def test_what_is_asked_for_and_not_taken_stays(one: Opened, name: str) -> None:
    assert one.port.take_tokens(name, SLOW, 3, 0) == (0, 0.0)
    assert one.port.take_tokens(name, SLOW, 3, 3).tokens == 3


def test_the_last_rate_and_burst_hold(one: Opened, name: str) -> None:
    assert one.port.take_tokens(name, SLOW, 100, 100).tokens == 100
    fast = eventually(lambda: one.port.take_tokens(name, 1e6, 3, 10).tokens)
    assert fast <= 3, "more than the burst of this call"
    eventually(lambda: one.port.take_tokens(name, 1e6, 3, 0) == (0, 0.0))
    assert one.port.take_tokens(name, SLOW, 3, 5).tokens <= 3


@pytest.mark.parametrize(
    ("rate", "burst", "want"), [(0.0, 1, 1), (-1.0, 1, 1), (float("nan"), 1, 1), (1.0, 0.5, 1), (1.0, 1, -1)]
)
def test_an_impossible_bucket_is_refused(
    one: Opened, name: str, rate: float, burst: float, want: int
) -> None:
    with pytest.raises(ValueError, match="rate_per_s"):
        one.port.take_tokens(name, rate, burst, want)


def test_many_workers_never_take_more_than_burst_and_rate_allow(broker: Broker, name: str) -> None:
    handles = [Opened(broker, f"w{number}") for number in range(4)]
    rate, burst = 200.0, 10.0
    began_mono_s = time.monotonic()

    def take(port: Coordinates) -> int:
        # Once at least, however late a thread comes: together they ask for more than the burst.
        taken = port.take_tokens(name, rate, burst, 3).tokens
        while time.monotonic() - began_mono_s < 0.5:
            tokens, retry_after_s = port.take_tokens(name, rate, burst, 3)
            taken += tokens
            time.sleep(min(retry_after_s, 0.01))
        return taken

    running = [Background(partial(take, one.port)) for one in handles]
    taken = sum(one.result(20.0) for one in running)
    elapsed_s = time.monotonic() - began_mono_s
    assert taken <= burst + rate * elapsed_s + 1
    # What is there is given: late clocks of a busy machine only let the bucket overflow.
    assert taken >= burst


# -- slots --------------------------------------------------------------------------------------


def test_there_are_so_many_slots(one: Opened, other: Opened, name: str) -> None:
    assert [one.take(name, 3, 1), other.take(name, 3, 2), one.take(name, 3, 3)] == [True] * 3
    assert [one.take(name, 3, 4), other.take(name, 3, 5)] == [False] * 2
    other.free(name, 2)
    assert one.take(name, 3, 4) is True
    assert other.take(name, 3, 2) is False


def test_who_has_a_slot_keeps_it(one: Opened, other: Opened, name: str) -> None:
    assert one.take(name, 1, 1) is True
    assert one.take(name, 1, 1) is True
    assert other.take(name, 1, 2) is False
    one.free(name, 1)
    assert other.take(name, 1, 2) is True


def test_a_slot_that_nobody_holds_is_freed_without_harm(one: Opened, other: Opened, name: str) -> None:
    one.free(name, 1)
    assert one.take(name, 1, 1) is True
    one.free(name, 2)
    assert other.take(name, 1, 3) is False


def test_a_limit_that_grows_or_shrinks_holds_for_the_next(one: Opened, other: Opened, name: str) -> None:
    assert [one.take(name, 2, number) for number in range(3)] == [True, True, False]
    assert one.take(name, 4, 2) is True
    assert other.take(name, 1, 9) is False
    for number in range(3):
        one.free(name, number)
    assert [other.take(name, 1, 9), one.take(name, 1, 1)] == [True, False]


def test_no_slots_are_none(one: Opened, name: str) -> None:
    assert one.take(name, 0, 1) is False


@pytest.mark.needs("leases")
def test_the_slots_of_a_dead_owner_are_freed_by_another(one: Opened, other: Opened, broker: Broker) -> None:
    names = [broker.unique(f"n{number}") for number in range(3)]
    dead, alike = f"{one.worker}.1.2", f"{one.worker}.1.20"
    for name in names:
        assert one.take(name, 3, 1, owner=dead) is True
        assert one.take(name, 3, 1, owner=alike) is True
    assert one.take(names[0], 3, 2, owner=dead) is True
    assert other.take(names[0], 3) is False
    assert other.port.free_slots_of(dead) == 4
    assert other.port.free_slots_of(dead) == 0
    assert [other.take(names[0], 3, number) for number in (1, 2, 3)] == [True, True, False]


@pytest.mark.needs("leases")
def test_the_slots_of_a_worker_whose_lease_lapsed_are_free(one: Opened, other: Opened, name: str) -> None:
    assert [one.take(name, 2, 1), one.take(name, 2, 2)] == [True] * 2
    assert other.take(name, 2, 3) is False
    one.transport.heartbeat(one.worker, 0.001)
    assert eventually(lambda: other.take(name, 2, 3)) is True
    assert [other.take(name, 2, 4), other.take(name, 2, 5)] == [True, False]
    one.transport.heartbeat(one.worker, LONG_S)
    assert one.take(name, 2, 1) is False, "somebody else has it by now"


@pytest.mark.needs("leases")
def test_the_slots_of_a_worker_that_was_recovered_are_free(one: Opened, other: Opened, name: str) -> None:
    assert one.take(name, 1, 1) is True
    one.transport.heartbeat(one.worker, 0.001)
    eventually(lambda: other.transport.recover_lapsed() is not None and other.take(name, 1, 3))


def test_threads_that_race_never_share_a_slot(broker: Broker, name: str) -> None:
    race_for_slots([Opened(broker, f"w{number}") for number in range(4)], name, limit=2)


def race_for_slots(handles: list[Opened], name: str, limit: int) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> int:
        entered = 0
        for _round in range(25):
            if handles[number].take(name, limit, number):
                inside.append(number)
                most.append(len(inside))
                entered += 1
                time.sleep(0.0005)
                inside.remove(number)
                handles[number].free(name, number)
        return entered

    running = [Background(partial(work, number)) for number in range(len(handles))]
    assert sum(one.result(30.0) for one in running) > 0
    assert max(most) <= limit


# -- locks --------------------------------------------------------------------------------------


def test_a_lock_has_one_holder(one: Opened, other: Opened, name: str) -> None:
    assert one.port.locked(name) is None
    assert one.port.lock(name, "first", LONG_S) is None
    assert other.port.lock(name, "second", LONG_S) == "first"
    assert one.port.locked(name) == other.port.locked(name) == "first"


def test_a_lock_is_freed_by_its_value_only(one: Opened, other: Opened, name: str) -> None:
    one.port.lock(name, "first", LONG_S)
    assert other.port.unlock(name, "second") is False
    assert other.port.locked(name) == "first"
    assert other.port.unlock(name, "first") is True
    assert other.port.unlock(name, "first") is False
    assert other.port.lock(name, "second", LONG_S) is None


def test_a_lock_ends_with_its_time(one: Opened, other: Opened, name: str) -> None:
    assert one.port.lock(name, "first", 0.05) is None
    assert eventually(lambda: other.port.lock(name, "second", LONG_S) is None) is True
    assert one.port.locked(name) == "second"
    assert one.port.unlock(name, "first") is False


def test_a_lock_is_prolonged_by_its_value(one: Opened, name: str) -> None:
    assert one.port.lock(name, "first", 0.2) is None
    began_mono_s = time.monotonic()
    assert one.port.lock(name, "first", LONG_S) is None
    eventually(lambda: time.monotonic() - began_mono_s > 0.3)
    assert one.port.locked(name) == "first"


def test_only_a_lock_that_is_held_is_prolonged(one: Opened, other: Opened, name: str) -> None:
    assert one.port.prolong(name, "first", LONG_S) is False
    assert one.port.locked(name) is None
    # Long enough to be prolonged in time, wherever the machine stands still.
    assert one.port.lock(name, "first", 2.0) is None
    began_mono_s = time.monotonic()
    assert other.port.prolong(name, "first", LONG_S) is True
    assert other.port.prolong(name, "second", LONG_S) is False
    eventually(lambda: time.monotonic() - began_mono_s > 2.1)
    assert one.port.locked(name) == "first"
    assert one.port.prolong(name, "first", 0.001) is True
    eventually(lambda: one.port.locked(name) is None)


def test_a_lock_is_taken_by_force(one: Opened, other: Opened, name: str) -> None:
    assert one.port.relock(name, "first", LONG_S) is None
    assert other.port.relock(name, "second", LONG_S) == "first"
    assert one.port.locked(name) == "second"
    assert other.port.relock(name, "second", LONG_S) == "second"
    assert one.port.unlock(name, "first") is False


def test_locks_take_any_name_and_value(one: Opened, broker: Broker) -> None:
    salt = uuid.uuid4().hex[:8]
    for name in NAMES:
        unique = salt + name if len(name) < 100 else salt + name[8:]
        value = f"{name}|{salt}"[:255]
        assert one.port.lock(unique, value, LONG_S) is None
        assert one.port.locked(unique) == value
        assert one.port.lock(unique, "another", LONG_S) == value
    for name in NAMES:
        unique = salt + name if len(name) < 100 else salt + name[8:]
        assert one.port.unlock(unique, f"{name}|{salt}"[:255]) is True


def test_a_lock_a_bucket_and_slots_of_one_name_are_different_things(one: Opened, name: str) -> None:
    assert one.port.lock(name, "value", LONG_S) is None
    assert one.port.take_tokens(name, SLOW, 1, 1).tokens == 1
    assert one.take(name, 1, 1) is True
    assert one.port.unlock(name, "value") is True
    assert one.port.take_tokens(name, SLOW, 1, 1).tokens == 0
    assert one.take(name, 1, 2) is False


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_lock_without_an_end_is_refused(one: Opened, name: str, ttl_s: float) -> None:
    for take in (one.port.lock, one.port.relock, one.port.prolong):
        with pytest.raises(ValueError, match="ttl_s"):
            take(name, "value", ttl_s)
    assert one.port.locked(name) is None


def test_of_many_who_take_a_lock_at_once_one_gets_it(broker: Broker) -> None:
    handles = [Opened(broker, f"w{number}") for number in range(4)]
    for _round in range(5):
        name = broker.unique(f"lock{_round}")
        running = [
            Background(partial(handles[number].port.lock, name, f"v{number}", LONG_S)) for number in range(4)
        ]
        answers = [one.result(20.0) for one in running]
        (winner,) = [f"v{number}" for number, answer in enumerate(answers) if answer is None]
        assert set(answers) == {None, winner}


# -- revocations --------------------------------------------------------------------------------


def test_revocations_are_seen_by_all_oldest_first(one: Opened, other: Opened, broker: Broker) -> None:
    first, second, third = (broker.unique(name) for name in ("first", "second", "third"))
    one.port.revoke([first, second], LONG_S)
    other.port.revoke([third], LONG_S)
    assert _ours(other, broker) == _ours(one, broker) == [first, second, third]


def _ours(opened: Opened, broker: Broker) -> list[str]:
    salt = broker.unique("")
    return [key for key in opened.port.revoked() if key.endswith(salt)]


def test_what_is_revoked_again_is_there_once_and_the_newest(one: Opened, broker: Broker) -> None:
    first, second = broker.unique("first"), broker.unique("second")
    one.port.revoke([first, second], LONG_S)
    one.port.revoke([first], LONG_S)
    assert _ours(one, broker) == [second, first]


def test_a_revocation_ends_with_its_lifetime(one: Opened, broker: Broker) -> None:
    short, long = broker.unique("short"), broker.unique("long")
    one.port.revoke([long], LONG_S)
    one.port.revoke([short], 0.05)
    eventually(lambda: _ours(one, broker) == [long])


@pytest.fixture
def forgotten(one: Opened, broker: Broker) -> None:
    """Nothing is revoked: on a server that tests share there may be more than it gives marks for."""
    if broker.implementation.name == "amqp":
        one.port.revoked()
        one.transport._publisher.ask(lambda channel: channel.queue_purge("prefork.revoked"))  # type: ignore[attr-defined]


@pytest.mark.usefixtures("forgotten")
def test_the_mark_of_what_is_revoked_is_another_one_whenever_something_was_revoked(
    one: Opened, other: Opened, broker: Broker
) -> None:
    one.port.revoked()
    before = one.port.revoked_mark()
    for keys in (["first", "second"], ["third"], ["first"], ["first"]):  # of the same again, too
        other.port.revoke([broker.unique(key) for key in keys], LONG_S)
        mark = one.port.revoked_mark()
        assert mark != before
        one.port.revoked()
        assert one.port.revoked_mark() == mark
        before = mark


@pytest.mark.usefixtures("forgotten")
def test_while_others_read_what_is_revoked_its_mark_stays(one: Opened, other: Opened, broker: Broker) -> None:
    one.port.revoke([broker.unique(str(number)) for number in range(600)], LONG_S)
    one.port.revoked()
    mark = one.port.revoked_mark()
    for _ in range(5):
        readers = [Background(opened.port.revoked) for opened in (one, other)]
        while any(reader.running for reader in readers):
            assert one.port.revoked_mark() == mark
        assert [len(reader.result()) >= 600 for reader in readers] == [True, True]


def test_to_revoke_nothing_is_no_error(one: Opened, broker: Broker) -> None:
    one.port.revoke([], LONG_S)
    assert _ours(one, broker) == []


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, float("inf")])
def test_a_revocation_without_an_end_is_refused(one: Opened, broker: Broker, lifetime_s: float) -> None:
    with pytest.raises(ValueError, match="lifetime_s"):
        one.port.revoke([broker.unique("key")], lifetime_s)
    assert _ours(one, broker) == []


def test_a_new_handle_finds_everything(one: Opened, broker: Broker, name: str) -> None:
    one.port.lock(name, "value", LONG_S)
    one.port.take_tokens(name, SLOW, 1, 1)
    one.port.revoke([broker.unique("key")], LONG_S)
    late = Opened(broker, "late")
    assert late.port.locked(name) == "value"
    assert late.port.take_tokens(name, SLOW, 1, 1).tokens == 0
    assert _ours(late, broker) == [broker.unique("key")]


def test_housekeeping_leaves_alone_what_goes_on(
    one: Opened, other: Opened, broker: Broker, name: str
) -> None:
    one.port.lock(name, "value", LONG_S)
    one.port.take_tokens(name, SLOW, 1, 1)
    one.take(name, 1, 1)
    one.port.revoke([broker.unique("key")], LONG_S)
    other.transport.maintain()
    assert other.port.locked(name) == "value"
    assert other.port.take_tokens(name, SLOW, 1, 1).tokens == 0
    assert other.take(name, 1, 2) is False
    assert _ours(other, broker) == [broker.unique("key")]


# -- processes ----------------------------------------------------------------------------------


@pytest.mark.needs("several_processes")
def test_processes_that_race_never_share_a_lock_and_lose_no_update(broker: Broker, name: str) -> None:
    """A counter that is read and written under the lock counts every round."""
    counter = broker.unique("counter")
    rounds, processes = 15, 3

    def work() -> None:
        mine = Opened(broker, f"p{uuid.uuid4().hex[:8]}")
        for number in range(rounds):
            value = f"{mine.worker}-{number}"
            eventually(lambda value=value: mine.port.lock(name, value, LONG_S) is None, every_s=0.001)
            count = int(mine.port.locked(counter) or 0)
            mine.port.relock(counter, str(count + 1), LONG_S)
            assert mine.port.unlock(name, value) is True

    running = [Background(lambda: in_child(work, deadline_s=40.0)) for _ in range(processes)]
    for one in running:
        one.result(60.0)
    assert Opened(broker, "reader").port.locked(counter) == str(rounds * processes)


@pytest.mark.needs("several_processes")
def test_processes_that_race_never_have_more_slots_and_tokens_than_there_are(
    broker: Broker, name: str, tmp_path: Path
) -> None:
    """Each writes down that it is inside after it entered, and that it leaves before it does."""
    limit, rate, burst = 2, 100.0, 5.0
    written = tmp_path / "written"
    written.touch()
    ends_mono_s = time.monotonic() + 0.7
    began_mono_s = time.monotonic()

    def work(number: int) -> None:
        mine = Opened(broker, f"p{number}")
        fd = os.open(written, os.O_WRONLY | os.O_APPEND)
        entered = taken = 0
        # Where the time is over before the others are there, one goes on until all has been seen.
        while time.monotonic() < ends_mono_s or (number == 0 and not (entered and taken >= burst)):
            tokens = mine.port.take_tokens(name, rate, burst, 2).tokens
            taken += tokens
            os.write(fd, b"t" * tokens)
            if mine.take(name, limit, number):
                entered += 1
                os.write(fd, b"+")
                time.sleep(0.001)
                os.write(fd, b"-")
                mine.free(name, number)

    running = [Background(partial(in_child, partial(work, number), deadline_s=40.0)) for number in range(4)]
    for one in running:
        one.result(60.0)
    elapsed_s = time.monotonic() - began_mono_s
    inside = most = tokens = 0
    for byte in written.read_bytes():
        inside += (byte == ord("+")) - (byte == ord("-"))
        tokens += byte == ord("t")
        most = max(most, inside)
    assert inside == 0
    assert 1 <= most <= limit
    assert burst <= tokens <= burst + rate * elapsed_s + 1


@pytest.mark.needs("several_processes")
def test_what_a_killed_process_had_taken_is_not_stuck(broker: Broker, name: str) -> None:
    def take() -> None:
        mine = Opened(broker, "killed")
        mine.port.lock(name, "value", 0.3)
        assert mine.take(name, 1, 1) is True
        mine.transport.heartbeat(mine.worker, 0.2)

    in_child(take)
    other = Opened(broker, "other")
    assert eventually(lambda: other.take(name, 1, 2)) is True
    assert eventually(lambda: other.port.lock(name, "mine", LONG_S) is None) is True


def test_the_suite_says_who_coordinates(implementation: Implementation, transport: Transport) -> None:
    assert isinstance(transport, Coordinates)
