"""What is held on one host: who may take it, and what is left by those who died."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.transports.errors import UnsafeStorage
from prefork.transports.kombu import journal as journal_module
from prefork.transports.kombu.journal import TAG_BYTES, Entry, Journal
from support.waiting import eventually

FIRST, SECOND = b"\0" * TAG_BYTES, b"\1" * TAG_BYTES


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal("broker", tmp_path)


def test_what_is_held_is_seen_by_everybody(journal: Journal, tmp_path: Path) -> None:
    shelf = journal.register("w", "o")
    entry = Entry("q", b"\xff", 3, 1, ("signal 9",), True, 7.0, "home")
    shelf.hold(FIRST, entry)
    other = Journal("broker", tmp_path)
    seen = other.shelf("o")
    assert seen is not None and seen.read(FIRST) == entry and seen.tags() == [FIRST]
    assert list(other.entries()) == [entry]
    assert list(Journal("another", tmp_path).entries()) == []


def test_one_alone_takes_a_message(journal: Journal) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    claimed = shelf.take(FIRST)
    assert claimed is not None and claimed.entry.document == b"m"
    assert (shelf.take(FIRST), shelf.read(FIRST), shelf.tags()) == (None, None, [])
    assert len(list(journal.entries())) == 1  # still somebody's
    claimed.undo()
    assert shelf.tags() == [FIRST]
    again = shelf.take(FIRST)
    assert again is not None
    again.remove()
    assert list(journal.entries()) == []


@pytest.mark.parametrize("tag", [b"", b"x", b"y" * 500, b"../../../etc/pass"])
def test_a_tag_that_is_none_names_nothing(journal: Journal, tag: bytes) -> None:
    shelf = journal.register("w", "o")
    assert (shelf.read(tag), shelf.take(tag)) == (None, None)


def test_what_is_taken_while_its_owner_is_retired_is_taken(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    read, retired = journal_module._read_entry, []

    def retire_and_read(path: Path) -> Entry | None:
        if not retired:
            retired.append(shelf.retire())
        return read(path)

    monkeypatch.setattr(journal_module, "_read_entry", retire_and_read)
    claimed = shelf.take(FIRST)
    assert claimed is not None and claimed.entry == Entry("q", b"m")
    assert retired[0].tags() == []
    claimed.remove()
    assert list(journal.entries()) == []


def test_a_retired_owner_takes_nothing_more(journal: Journal) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    claimed = shelf.take(FIRST)
    shelf.hold(SECOND, Entry("q", b"n"))
    assert claimed is not None
    retired = shelf.retire()
    assert not shelf.exists()
    with pytest.raises(FileNotFoundError):
        shelf.hold(FIRST, Entry("q", b"late"))
    assert retired.tags() == [SECOND]  # the other one is in the hands of a process that lives
    assert shelf.retire().tags() == [SECOND]  # whoever does it again finds the rest
    claimed.undo()
    assert retired.tags() == [FIRST, SECOND]
    retired.discard()
    assert retired.tags() == [FIRST, SECOND]  # what is held is not thrown away
    for tag in retired.tags():
        taken = retired.take(tag)
        assert taken is not None
        taken.remove()
    retired.discard()
    assert journal.owners("w") == []


def test_what_an_owner_takes_just_before_it_is_discarded_stays(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, names = journal.register("w", "o"), journal_module._names
    late = [Entry("q", b"m")]

    def listed(place: Path) -> list[str]:
        found = names(place)
        if late:
            shelf.hold(FIRST, late.pop())
        return found

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "_names", listed)
        shelf.discard()
    assert late == []
    with pytest.raises(FileNotFoundError):
        shelf.hold(SECOND, Entry("q", b"later"))
    assert (journal.owners("w"), shelf.retire().tags()) == (["o"], [FIRST])
    assert [entry.document for entry in journal.entries()] == [b"m"]


def test_what_is_in_no_listing_is_not_discarded(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    retired = shelf.retire()
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "_names", lambda place: [])
        retired.discard()
    assert (journal.owners("w"), retired.tags()) == (["o"], [FIRST])


def test_an_empty_shelf_is_discarded_once_by_whoever_is_first(journal: Journal) -> None:
    shelf = journal.register("w", "o")
    retired = shelf.retire()
    journal.register("w", "o")  # again, under the same name, while the other one is still there
    shelf.discard()
    retired.discard()
    shelf.discard()
    shelf.discard()
    assert (journal.owners("w"), shelf.exists(), retired.exists()) == ([], False, False)


def test_what_a_dead_process_was_settling_is_found(journal: Journal, tmp_path: Path) -> None:
    journal.register("w", "o").hold(FIRST, Entry("q", b"m"))
    code = (
        "import os, sys; from pathlib import Path; from prefork.transports.kombu.journal import Journal;"
        "s = Journal('broker', Path(sys.argv[1])).shelf('o'); s.take(bytes(16)); os.kill(os.getpid(), 9)"
    )
    done = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    shelf = journal.shelf("o")
    assert shelf is not None
    eventually(lambda: shelf.tags() == [])
    # Not reaped yet: it counts as dead all the same.
    assert eventually(lambda: shelf.retire().tags()) == [FIRST]
    assert done.wait(10.0) == -signal.SIGKILL


def test_leases_end(journal: Journal) -> None:
    journal.register("w", "o")
    assert not journal.has_lease("w")
    journal.extend("w", 100.0)
    journal.extend("other", 50.0)
    assert journal.has_lease("w")
    assert journal.lapsed(99.0) == ["other"]
    assert sorted(journal.lapsed(100.0)) == ["other", "w"]


def test_a_worker_is_forgotten_when_it_holds_nothing(journal: Journal) -> None:
    shelf = journal.register("w", "o")
    journal.extend("w", 1e12)
    shelf.hold(FIRST, Entry("q", b"m"))
    journal.forget_worker("w")
    assert journal.lapsed(1.0) == ["w"]
    assert journal.owners("w") == ["o"]
    claimed = shelf.take(FIRST)
    assert claimed is not None
    claimed.remove()
    journal.forget_worker("w")
    assert (journal.owners("w"), journal.shelf("o"), journal.lapsed(1e13)) == ([], None, [])


def test_half_a_file_is_not_an_entry(journal: Journal, tmp_path: Path) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    (place,) = [path.parent for path in tmp_path.rglob(FIRST.hex())]
    (place / FIRST.hex()).write_bytes(b"\xc1")
    assert shelf.read(FIRST) is None and shelf.take(FIRST) is None
    assert list(journal.entries()) == []


def test_an_owner_that_another_process_recovers_while_it_is_listed_is_none(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.register("w", "o")
    read_name = journal_module._read_name

    def gone(place: Path) -> str:
        shutil.rmtree(place)
        return read_name(place)

    monkeypatch.setattr(journal_module, "_read_name", gone)
    assert journal.owners("w") == []


def test_what_is_in_no_listing_since_another_process_renames_it_is_not_forgotten(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "_folders", lambda place: [])
        journal.forget_worker("w")
    assert (journal.lapsed(1.0), journal.owners("w"), shelf.tags()) == (["w"], ["o"], [FIRST])


def test_a_worker_that_died_while_it_registered_is_forgotten(journal: Journal, tmp_path: Path) -> None:
    journal.extend("w", 0.0)
    (place,) = (tmp_path / "broker").iterdir()
    (place / "without-a-name").mkdir()
    journal.forget_worker("w")
    assert list((tmp_path / "broker").iterdir()) == []


@pytest.fixture(params=range(2))
def forgotten_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process forgets a worker just before its first, or its second, file is written."""
    write, written = journal_module._write, []

    def late(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == request.param + 1:
            shutil.rmtree(written[0].parent)
        write(path, data)

    monkeypatch.setattr(journal_module, "_write", late)


@pytest.mark.usefixtures("forgotten_once")
def test_a_worker_that_others_forget_while_it_extends_its_lease_has_it(journal: Journal) -> None:
    journal.extend("w", 5.0)
    assert (journal.lapsed(4.0), journal.lapsed(6.0)) == ([], ["w"])


@pytest.mark.usefixtures("forgotten_once")
def test_a_worker_that_others_forget_while_it_begins_to_hold_may_hold(journal: Journal) -> None:
    shelf = journal.register("w", "o")
    shelf.hold(FIRST, Entry("q", b"m"))
    assert (journal.owners("w"), shelf.tags()) == (["o"], [FIRST])


def test_the_directory_belongs_to_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module.tempfile, "gettempdir", lambda: str(tmp_path))
    Journal("broker").register("w", "o")
    (base,) = tmp_path.iterdir()
    assert base.stat().st_mode & 0o777 == 0o700
    assert str(os.getuid()) in base.name
    base.chmod(0o755)
    with pytest.raises(UnsafeStorage, match="closed to all others"):
        Journal("broker")


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(journal_module, "_BOOT_ID", tmp_path / "no such file")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / f"prefork-{os.getuid()}-0").symlink_to(elsewhere)
    with pytest.raises(UnsafeStorage):
        Journal("broker")
