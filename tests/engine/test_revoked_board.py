"""Keys, digests, the bounded set, and the board in shared memory that children look at."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.revoked_board import A_COUNT, A_STAMPS, A_TABLE, REVOKED_MAX, ROOM, RevokedBoard
from prefork.engine.revoked_keys import (
    KEY_BYTES_MAX,
    SLOT_ID_BYTES_MAX,
    digest_of,
    is_stamp,
    slot_id,
    stamp_digests,
    stamp_key,
    stamp_keys,
    task_digest,
    task_key,
    task_of,
)
from prefork.engine.revoked_set import RevokedSet
from prefork.engine.scoreboard import C_HELD, SLOTS, Scoreboard
from support.forked import in_child

ANY_TEXT = st.text(st.characters(), max_size=600)


@pytest.fixture
def board() -> RevokedBoard:
    return RevokedBoard(Scoreboard().buffer)


# --- keys -----------------------------------------------------------------------------------------------


@given(task_id=ANY_TEXT)
def test_the_key_of_any_id_is_short_text_with_the_digest_of_the_id(task_id: str) -> None:
    key = task_key(task_id)
    assert len(key.encode()) <= KEY_BYTES_MAX
    assert digest_of(key) == task_digest(task_id)
    assert task_of(key) in (None, task_id)


@given(one=ANY_TEXT, other=ANY_TEXT)
def test_no_two_ids_have_the_same_key_digest_or_form_in_a_slot(one: str, other: str) -> None:
    same = one == other
    assert (task_key(one) == task_key(other)) is same
    assert (task_digest(one) == task_digest(other)) is same
    assert (slot_id(one) == slot_id(other)) is same
    assert len(slot_id(one)) <= SLOT_ID_BYTES_MAX


def test_ids_that_differ_only_beyond_what_a_slot_holds_are_told_apart() -> None:
    assert slot_id("x" * 300 + "a") != slot_id("x" * 300 + "b")
    assert slot_id("short") == b"short"


@given(name=st.text(max_size=20), value=st.one_of(st.integers(), st.text(max_size=300), st.booleans()))
def test_what_is_stamped_has_the_digest_of_the_key_of_its_stamp(name: str, value: object) -> None:
    key = stamp_key(name, value)
    assert is_stamp(key)
    assert task_of(key) is None
    assert digest_of(key) in stamp_digests({name: ["else", value]})
    assert digest_of(key) in stamp_digests({name: value})


def test_stamps_are_named_as_a_map_or_as_texts() -> None:
    assert stamp_keys({"a": ["1", 2], "b": "x"}) == stamp_keys(["a=1", "a=2", "b=x"])


@pytest.mark.parametrize("wrong", [["no value"], [3]])
def test_what_is_no_stamp_is_refused_with_the_remedy(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match="header=value"):
        stamp_keys(wrong)


def test_a_damaged_key_of_somebody_else_is_a_key_like_any_other() -> None:
    assert digest_of("digest:not hexadecimal") != digest_of("digest:not hexadecimal either")
    assert len(digest_of("digest:ab")) == len(digest_of("digest:" + "ab" * 40)) == 16


# --- the set --------------------------------------------------------------------------------------------


@given(
    steps=st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.floats(0, 5)), max_size=60),
    most=st.integers(1, 6),
)
def test_the_oldest_are_forgotten_first_and_nothing_outlives_its_time(
    steps: list[tuple[int, bool, float]], most: int
) -> None:
    known, model, now_s = RevokedSet(most, 10.0), OrderedDict[bytes, float](), 0.0
    for number, forgets, passed_s in steps:
        now_s += passed_s
        digest = bytes([number])
        assert known.add(digest, f"task:{number}", now_s) is (digest not in model)
        model.setdefault(digest, now_s + 10.0)
        if forgets:
            gone = [one for one, end_s in model.items() if end_s <= now_s]
            kept = [one for one in model if one not in gone][-most:]
            assert known.forget(now_s) == len(model) - len(kept)
            model = OrderedDict((one, model[one]) for one in kept)
        assert list(known.digests()) == list(model)
        assert known.keys() == [f"task:{one[0]}" for one in model]


def test_a_key_that_becomes_known_later_is_kept() -> None:
    known = RevokedSet(10, 10.0)
    assert known.add(b"x", None, 0.0)
    assert known.keys() == []
    assert not known.add(b"x", "task:x", 0.0)
    assert known.keys() == ["task:x"]


# --- the board ------------------------------------------------------------------------------------------


def test_nothing_is_revoked_at_first(board: RevokedBoard) -> None:
    assert not board.revokes("id", {"k": "v"})
    assert board.digests() == []


def test_what_was_added_is_found_and_nothing_else(board: RevokedBoard) -> None:
    assert board.add(task_digest("id"))
    assert board.add(task_digest("id"))
    assert board.words[A_COUNT] == 1
    assert board.revokes("id", None)
    assert not board.revokes("other", None)


def test_stamps_count_only_when_any_are_revoked(board: RevokedBoard) -> None:
    board.add(digest_of(stamp_key("tenant", "acme")))
    assert not board.revokes("id", {"tenant": ["acme"]})
    board.words[A_STAMPS] = 1
    assert board.revokes("id", {"tenant": ["x", "acme"]})
    assert not board.revokes("id", {"tenant": "acm"})
    assert not board.revokes("id", {})


def test_a_board_is_made_anew_without_what_is_forgotten(board: RevokedBoard) -> None:
    for number in range(100):
        board.add(task_digest(str(number)))
    board.replace([task_digest(str(number)) for number in range(50, 100)])
    assert [board.revokes(str(number), None) for number in (0, 49, 50, 99)] == [False, False, True, True]
    assert set(board.digests()) == {task_digest(str(number)) for number in range(50, 100)}
    board.replace([])
    assert not board.words[A_COUNT]
    assert not board.holds(task_digest("99"))


def test_a_full_board_says_so_and_all_that_are_remembered_fit(board: RevokedBoard) -> None:
    board.replace([task_digest(str(number)) for number in range(ROOM + 10)])
    assert board.words[A_COUNT] == ROOM > REVOKED_MAX
    assert not board.add(task_digest("one more"))
    assert board.revokes("0", None)
    assert not board.revokes("one more", None)


def test_a_writer_that_dies_between_two_words_leaves_a_table_that_is_whole(board: RevokedBoard) -> None:
    board.add(task_digest("known"))
    table = board._tables[board.words[A_TABLE] & 1]
    at = int.from_bytes(task_digest("half")[8:], "little") % (len(table) // 2) * 2
    table[at + 1] = int.from_bytes(task_digest("half")[8:], "little")
    assert not board.revokes("half", None)
    assert board.add(task_digest("half"))
    assert board.revokes("half", None)
    assert board.revokes("known", None)


def test_a_writer_that_dies_while_it_makes_the_other_table_changes_nothing(board: RevokedBoard) -> None:
    board.add(task_digest("known"))
    other = board._tables[(board.words[A_TABLE] + 1) & 1]
    other[:] = memoryview(bytes(range(256)) * (other.nbytes // 256)).cast("Q")
    assert board.revokes("known", None)
    board.replace([task_digest("new")])
    assert board.revokes("new", None)
    assert not board.revokes("known", None)


def test_a_reader_of_a_table_that_is_changed_under_it_looks_into_the_new_one(board: RevokedBoard) -> None:
    board.add(task_digest("id"))

    class Changing:
        """Stands for the header: the table is changed between the first look at it and the next."""

        def __init__(self, words: memoryview) -> None:
            self._words, self._looks = words, 0

        def __getitem__(self, index: int) -> int:
            self._looks += index == A_TABLE
            if self._looks == 2:
                self._looks += 1
                board.words = self._words
                board.replace([task_digest("new")])
                board.words = self  # type: ignore[assignment]
            return self._words[index]

    board.words = Changing(board.words)  # type: ignore[assignment]
    assert board.holds(task_digest("new"))


def test_another_process_sees_it_at_once_and_slots_are_left_alone() -> None:
    board = Scoreboard()
    last = board.slot(SLOTS - 1)
    last.words[C_HELD] = 7
    revoked = RevokedBoard(board.buffer)
    in_child(lambda: [revoked.add(task_digest(str(number))) for number in range(1000)])
    assert all(revoked.revokes(str(number), None) for number in range(1000))
    assert last.words[C_HELD] == 7
