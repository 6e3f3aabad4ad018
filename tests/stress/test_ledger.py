"""The checker itself, with ledgers made by hand: it must see every kind of wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.ledger import DYING_NS, END, SETTLED_NS, START, Execution, Kill, Ledger, LedgerError, check, note

MS = 1_000_000
FAR = SETTLED_NS + 1000 * MS


def run(task_id: str, pid: int, start: int, end: int | None) -> Execution:
    return Execution(task_id, pid, 0, start * MS, None if end is None else end * MS)


def test_a_clean_ledger_is_clean() -> None:
    found = check(["a", "b"], [run("a", 1, 0, 5), run("b", 1, 6, 9)])
    assert found.clean
    assert (found.accepted, found.starts, found.duplicates, found.hits) == (2, 2, 0, 0)


def test_what_never_finished_and_is_nowhere_is_lost() -> None:
    found = check(["a", "b", "c"], [run("b", 1, 0, None)], [Kill(1, 1 * MS)], elsewhere=["c"])
    assert found.lost == ["a", "b"]
    assert not found.clean


def test_what_nobody_sent_is_a_phantom() -> None:
    found = check([], [run("a", 1, 0, 5)])
    assert found.phantom == ["a"]
    assert not found.clean


def test_a_repetition_after_a_kill_is_explained() -> None:
    found = check(["a"], [run("a", 1, 0, None), run("a", 2, 20, 25)], [Kill(1, 3 * MS)])
    assert found.clean
    assert (found.duplicates, found.hits) == (1, 1)


def test_a_kill_between_the_end_and_the_settlement_explains_too() -> None:
    found = check(["a"], [run("a", 1, 0, 5), run("a", 2, 20, 25)], [Kill(1, 6 * MS)])
    assert found.clean
    assert (found.duplicates, found.hits) == (1, 0)


@pytest.mark.parametrize(
    "kill",
    [
        None,
        Kill(3, 3 * MS),  # another process
        Kill(1, 30 * MS),  # only after the repetition had begun
        Kill(1, FAR),  # long after it was settled
    ],
)
def test_a_repetition_that_no_kill_accounts_for_is_unexplained(kill: Kill | None) -> None:
    found = check(["a"], [run("a", 1, 0, 5), run("a", 2, 20, 25)], [kill] if kill else [])
    assert found.unexplained == ["a"]
    assert not found.clean


def test_a_kill_long_before_the_execution_explains_nothing() -> None:
    late = DYING_NS // MS + 10
    runs = [run("a", 1, late, late + 5), run("a", 1, late + 10, late + 15)]
    assert check(["a"], runs, [Kill(1, 5 * MS)]).unexplained == ["a"]


def test_a_task_that_begins_while_its_process_is_dying_is_explained() -> None:
    runs = [run("a", 1, 6, None), run("a", 2, 30, 35)]
    assert check(["a"], runs, [Kill(1, 5 * MS)]).clean


def test_one_kill_explains_one_repetition_unless_a_whole_worker_died() -> None:
    runs = [run("a", 1, 0, 2), run("b", 1, 3, None), run("a", 2, 20, 21), run("b", 2, 22, 23)]
    kills = [Kill(1, 4 * MS)]
    assert check(["a", "b"], runs, kills).unexplained == ["b"]
    assert check(["a", "b"], runs, kills, per_kill=None).clean


def test_two_executions_at_one_time_overlap() -> None:
    found = check(["a"], [run("a", 1, 0, 30), run("a", 2, 20, 25)])
    assert found.overlaps == ["a"]
    assert not found.clean


def test_an_execution_that_was_cut_off_by_nobody_has_vanished() -> None:
    found = check(["a"], [run("a", 1, 0, None), run("a", 2, 20, 25)])
    assert found.vanished == ["a"]
    assert not found.clean


def test_records_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    assert ledger.executions() == []
    note(path, START, "a", 2)
    assert {pid: record.task_id for pid, record in ledger.read().running().items()} == {os.getpid(): "a"}
    with path.open("ab") as file:
        file.write(b"LED")  # the first bytes of a record that is being written
    assert ledger.read().finished == set()
    os.truncate(path, path.stat().st_size - 3)
    note(path, END, "a", 2)
    [found] = ledger.executions()
    assert (found.task_id, found.pid, found.attempt) == ("a", os.getpid(), 2)
    assert found.end_ns is not None and found.start_ns <= found.end_ns
    assert ledger.finished == {"a"}
    assert ledger.running() == {}


def test_damage_and_impossible_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="more than"):
        note(tmp_path / "ledger", START, "x" * 41)
    (tmp_path / "damaged").write_bytes(b"\xff" * 64)
    with pytest.raises(LedgerError, match="no record"):
        Ledger(tmp_path / "damaged").read()
    note(tmp_path / "reversed", END, "a")
    with pytest.raises(LedgerError, match="never started"):
        Ledger(tmp_path / "reversed").executions()
