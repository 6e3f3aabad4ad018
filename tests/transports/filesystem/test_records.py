"""Small files that are read back: whatever is in them, reading ends in a value or in quarantine."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import OwnerLost, UnsafeStorage
from prefork.transports.filesystem import (
    clock,
    deadletters,
    directory,
    intent,
    leases,
    open_results,
    open_transport,
    owners,
)
from prefork.transports.filesystem.fileops import FileOps
from prefork.transports.filesystem.layout import encode_name
from prefork.transports.filesystem.results import FilesystemResults
from prefork.transports.filesystem.store import Store
from prefork.transports.filesystem.transport import FilesystemTransport

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
KEY = f"{1:020d}-{'0' * 16}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "broker"), FileOps())


def write(path: str, data: bytes) -> None:
    Path(path).unlink(missing_ok=True)
    Path(path).write_bytes(data)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content cut short, with a byte changed, or replaced."""
    return st.one_of(
        st.binary(max_size=200),
        st.integers(0, len(content) - 1).map(lambda at: content[:at]),
        st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)).map(
            lambda change: (
                content[: change[0]] + bytes([content[change[0]] ^ change[1]]) + content[change[0] + 1 :]
            )
        ),
    )


LETTER = deadletters.encode_dead_letter(
    queue="q\udc80", reason="why", causes=("one", "two"), document=b"doc", priority=3, crashes=2
)


def test_a_dead_letter_comes_back_with_everything(store: Store) -> None:
    write(store.path("dead", KEY), LETTER)
    letter = deadletters.read_dead_letter(store, KEY)
    assert letter is not None
    assert (letter.queue, letter.reason, letter.causes) == ("q\udc80", "why", ("one", "two"))
    assert (letter.document, letter.priority, letter.crashes) == (b"doc", 3, 2)
    assert abs(letter.died_wall_s - clock.wall_s()) < 3600


@fuzz
@given(content=damaged(LETTER))
def test_a_damaged_dead_letter_is_put_aside(store: Store, content: bytes) -> None:
    write(store.path("dead", KEY), content)
    assert deadletters.read_dead_letter(store, KEY) is None
    assert not os.path.lexists(store.path("dead", KEY))


@given(st.text())
def test_only_keys_of_letters_are_ever_made_a_path_of(text: str) -> None:
    assert not deadletters.is_key(text) or "/" not in text
    assert not deadletters.is_key("../" + text)


@fuzz
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
            lambda value: json.dumps(value).encode()
        ),
    )
)
def test_a_damaged_lease_is_replaced_by_a_short_one(store: Store, content: bytes) -> None:
    path = leases.lease_path(store, "worker")
    write(path, content)
    assert leases.lapsed_workers(store) == {}
    renewed = json.loads(Path(path).read_bytes())
    assert renewed["worker"] == "worker"
    assert renewed["until_boot_ns"] <= clock.boot_ns() + leases.GRACE_S * 1e9


def test_a_first_lease_never_takes_the_place_of_one_that_is_written_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_new, calls = store.ops.write_new, 0

    def agent_is_quicker(path: str, data: bytes, *, sync: bool = False) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            leases.heartbeat(store, "worker", 2.0)
        write_new(path, data, sync=sync)

    monkeypatch.setattr(store.ops, "write_new", agent_is_quicker)
    leases.ensure_lease(store, "worker")
    assert calls == 2
    written = json.loads(Path(leases.lease_path(store, "worker")).read_bytes())
    assert written["until_boot_ns"] <= clock.boot_ns() + 2.0 * 1e9
    assert os.listdir(store.path("workers")) == [encode_name("worker")]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EIO])
def test_a_first_lease_is_written_on_file_systems_without_links_too(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store.ops, "link", refuse)
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)):
            leases.ensure_lease(store, "worker")
        assert os.listdir(store.path("workers")) == []
    else:
        leases.ensure_lease(store, "worker")
        assert leases.lives(store, "worker")
        assert os.listdir(store.path("workers")) == [encode_name("worker")]


def test_a_lease_of_another_start_of_the_machine_has_lapsed() -> None:
    lease = leases.Lease("worker", "this", 1000)
    assert not lease.lapsed(1000, "this")
    assert lease.lapsed(1001, "this")
    assert lease.lapsed(0, "another")


@fuzz
@given(content=st.binary(max_size=100))
def test_a_damaged_owner_can_still_be_recovered(tmp_path: Path, content: bytes) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    transport.purge("q")
    transport.send([Outgoing("q", b"a")])
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    (path,) = (tmp_path / "broker/owners").glob("*/owner")
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)
    recovery = transport.recover("owner", running=held.tag, cause="signal 9", max_crashes=1)
    assert [one.document for one in recovery.dead] == [b"a"]
    assert transport.owners("worker") == []
    assert consumer.settle([Outcome(held.tag)]) == [False]
    with pytest.raises(OwnerLost):
        consumer.reserve(1)
    consumer.close()
    transport.close()


@fuzz
@given(content=st.binary(max_size=300))
def test_a_torn_intent_was_never_carried_out(tmp_path: Path, content: bytes) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    transport.purge("q")
    transport.send([Outgoing("q", b"a")])
    transport.consumer(["q"], "owner", "worker").reserve(1)
    (folder,) = (tmp_path / "broker/owners").iterdir()
    write(str(folder / "intent-1-00000000"), content)
    assert transport.recover("owner").returned == 1
    transport.close()


def test_an_intent_comes_back_until_it_is_cleared(store: Store) -> None:
    owner = owners.register(store, "owner", "worker")
    record = intent.IntentFile(store, owner)
    staged = intent.Staged("q", 0, 3, 1, 7, 0)
    written = intent.Intent(2**64 - 1, (intent.Parent(b"tag", (staged,), (intent.Prepared("f", "k"),)),))
    record.write(written)
    assert [one for _, one in intent.pending(store, owner.path)] == [written]
    record.clear()
    assert intent.pending(store, owner.path) == []
    record.close()
    owner.close()


def test_staged_messages_of_a_forgotten_owner_are_removed_by_maintenance(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    transport.send([Outgoing("q", b"a")])
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    consumer.settle([Outcome(held.tag, follow_ups=(Outgoing("next", b"b"),))])
    path = tmp_path / "broker/queues/next/0-00000001.seg"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x05")  # staged
    consumer.close()
    assert transport.maintain() == []
    assert path.read_bytes()[4096] == 3  # done
    assert transport.peek("next") == []
    transport.close()


def test_a_registration_that_was_cut_short_is_forgotten_after_an_hour(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    folder = tmp_path / "broker/owners/00000000000000ff"
    folder.mkdir()
    transport.maintain()
    assert folder.exists()
    os.utime(folder, (1, 1))
    transport.maintain()
    assert not folder.exists()
    transport.close()


def test_a_replayed_letter_is_gone_at_once_and_has_a_clean_record(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    transport.send([Outgoing("q", b"a", 4)])
    consumer = transport.consumer(["q"], "owner", "worker")
    consumer.settle([Outcome(consumer.reserve(1)[0].tag, Verdict.DEAD, reason="why")])
    (letter,) = transport.dead_letters()
    assert transport.dead_replay(letter.key)
    assert not transport.dead_replay(letter.key)
    (again,) = consumer.reserve(1)
    assert (again.document, again.priority, again.crashes) == (b"a", 4, 0)
    assert os.listdir(tmp_path / "broker/workers") == [encode_name("worker")]
    consumer.close()
    transport.close()


def test_space_of_large_documents_is_freed_when_all_are_done(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    consumer = transport.consumer(["q"], "owner", "worker")
    for _ in range(3):
        transport.send([Outgoing("q", b"x" * 600_000), Outgoing("q", b"y" * 600_000)])
        assert consumer.settle([Outcome(one.tag) for one in consumer.reserve(2)]) == [True, True]
        assert list((tmp_path / "broker/queues/q").glob("*.seg")) == []
    transport.send([Outgoing("q", b"x" * 9_000_000) for _ in range(5)])
    assert len(list((tmp_path / "broker/queues/q").glob("*.seg"))) == 5
    assert [len(one.document) for one in consumer.reserve(10)] == [9_000_000] * 5
    consumer.close()
    transport.close()


def test_leftovers_of_killed_writers_are_removed_after_an_hour(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    leftovers = [tmp_path / "broker/results/.1-1-1-1.tmp", tmp_path / "broker/workers/.1-0.tmp"]
    for leftover in leftovers:
        leftover.write_bytes(b"")
    assert transport.maintain() == []
    assert all(leftover.exists() for leftover in leftovers)
    for leftover in leftovers:
        os.utime(leftover, (1, 1))
    assert transport.maintain() == []
    assert not any(leftover.exists() for leftover in leftovers)
    transport.close()


def test_the_default_directory_is_in_the_users_state_directory() -> None:
    assert directory("filesystem://", {"app": "shop/eu"}, {"XDG_STATE_HOME": "/state"}) == Path(
        "/state/prefork/shop%2Feu"
    )
    assert directory("filesystem://", {}, {"XDG_STATE_HOME": "relative"}) == Path(
        os.path.expanduser("~/.local/state/prefork/default")
    )
    assert directory("filesystem:///var/a%20b", {}) == Path("/var/a b")
    with pytest.raises(UnsafeStorage, match="three slashes"):
        directory("filesystem://var/lib", {})


def test_urls_open_broker_and_results_in_one_directory(tmp_path: Path) -> None:
    url = f"filesystem://{tmp_path}/broker"
    transport, results = open_transport(url, {"fsync": True}), open_results(url, {"fsync": True})
    transport.send([Outgoing("q", b"a"), Outgoing("q", b"b", 1, 4e9)])
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    outcome = Outcome(
        held.tag,
        Verdict.REQUEUE,
        follow_ups=(Outgoing("q", b"c"),),
        results=(StoredResult("k", b"{}", final=False),),
    )
    assert consumer.settle([outcome]) == [True]
    assert results.get(["k"]) == [b"{}"]
    assert isinstance(results, FilesystemResults)
    assert [one.document for one in transport.peek("q")] == [b"a", b"c"]
    consumer.close()
    results.close()
    transport.close()
