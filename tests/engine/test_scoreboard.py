"""The shared mapping: layout, texts under a writer that is caught in the middle, outcomes, tags."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.scoreboard import (
    BATCH_MAX,
    C_HELD,
    C_OUTCOME_BYTES,
    C_REPORT_BYTES,
    C_SEQUENCE,
    OUTCOME_BYTES,
    S_GENERATION,
    S_MARK,
    SLOTS,
    TAG_BYTES,
    Scoreboard,
    pack_mark,
    unpack_mark,
)
from support.forked import in_child


@pytest.fixture(scope="module")
def board() -> Scoreboard:
    return Scoreboard()


def _resident_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssShmem:"))


def test_slots_that_are_not_used_cost_nothing() -> None:
    before_kib = _resident_kib()
    board = Scoreboard()
    board.slot(0).words[C_HELD] = 1
    board.slot(SLOTS - 1).words[C_HELD] = 2
    assert _resident_kib() - before_kib < 64
    assert (board.slot(0).words[C_HELD], board.slot(SLOTS - 1).words[C_HELD]) == (1, 2)


@pytest.mark.parametrize("index", [-1, SLOTS])
def test_there_is_no_slot_beyond_the_last(board: Scoreboard, index: int) -> None:
    with pytest.raises(IndexError, match="at most"):
        board.slot(index)


def test_another_process_sees_what_is_written(board: Scoreboard) -> None:
    slot = board.slot(3)

    def write() -> None:
        Scoreboard.slot(board, 3).words[C_HELD] = 77
        slot.write_texts(b"id", b"name", b"tag")
        slot.append_outcome(b"done")

    in_child(write)
    assert slot.words[C_HELD] == 77
    assert slot.read_texts() == ("id", "name", b"tag", False, b"id")
    assert slot.read_outcomes() == [b"done"]


def test_neighbours_do_not_overlap(board: Scoreboard) -> None:
    left, right = board.slot(10), board.slot(11)
    right.write_texts(b"r" * 254, b"r" * 510, b"r" * 62)
    right.write_tags([b"r" * (TAG_BYTES - 1)] * BATCH_MAX)
    assert right.append_outcome(b"r" * (OUTCOME_BYTES - 4))
    left.write_texts(b"l" * 400, b"l" * 900, b"l" * 62)
    left.write_tags([b"l" * (TAG_BYTES - 1)] * BATCH_MAX)
    assert left.append_outcome(b"l" * (OUTCOME_BYTES - 4))
    assert right.read_texts() == ("r" * 254, "r" * 510, b"r" * 62, False, b"r" * 254)
    assert right.read_outcomes() == [b"r" * (OUTCOME_BYTES - 4)]
    assert set(right.read_tags(0, BATCH_MAX)) == {b"r" * (TAG_BYTES - 1)}
    assert left.read_texts().task_id == "l" * 254


@given(st.text(max_size=300), st.text(max_size=600), st.binary(max_size=62))
def test_texts_come_back_cut_to_their_room(task_id: str, name: str, tag: bytes) -> None:
    slot = BOARD.slot(20)
    slot.write_texts(task_id.encode("utf-8", "replace"), name.encode("utf-8", "replace"), tag)
    texts = slot.read_texts()
    assert texts.task_id == task_id.encode("utf-8", "replace")[:254].decode("utf-8", "replace")
    assert texts.task_name == name.encode("utf-8", "replace")[:510].decode("utf-8", "replace")
    assert texts.tag == tag
    assert not texts.torn


BOARD = Scoreboard()


def test_a_writer_that_died_in_the_middle_does_not_hold_a_reader_up(board: Scoreboard) -> None:
    slot = board.slot(21)
    slot.write_texts(b"one", b"two", b"three")
    slot.words[C_SEQUENCE] += 1
    assert slot.read_texts() == ("one", "two", b"three", True, b"one")


@given(st.lists(st.binary(min_size=1, max_size=20_000), max_size=8))
def test_outcomes_come_back_whole_and_in_order_as_far_as_they_fit(records: list[bytes]) -> None:
    slot = BOARD.slot(22)
    slot.clear_outcomes()
    kept = [record for record in records if slot.append_outcome(record)]
    assert slot.read_outcomes() == kept
    assert sum(len(record) + 4 for record in kept) == slot.words[C_OUTCOME_BYTES] <= OUTCOME_BYTES


@given(st.integers(0, 2**64 - 1), st.binary(max_size=64))
def test_an_outcome_area_full_of_nonsense_is_read_without_an_error(used: int, data: bytes) -> None:
    slot = BOARD.slot(23)
    slot.clear_outcomes()
    slot.append_outcome(data)
    slot.words[C_OUTCOME_BYTES] = used
    assert isinstance(slot.read_outcomes(), list)


@given(st.lists(st.binary(max_size=TAG_BYTES - 1), min_size=1, max_size=BATCH_MAX))
def test_tags_come_back(tags: list[bytes]) -> None:
    slot = BOARD.slot(24)
    slot.write_tags(tags)
    assert slot.read_tags(0, len(tags)) == tags
    assert slot.read_tags(1, len(tags)) == tags[1:]


@given(st.integers(0, 2**47), st.integers(0, BATCH_MAX))
def test_a_mark_is_one_word(batch: int, index: int) -> None:
    slot = BOARD.slot(25)
    slot.words[S_MARK] = pack_mark(batch, index)
    assert unpack_mark(slot.words[S_MARK]) == (batch, index)


def test_a_report_keeps_its_end_where_the_error_is(board: Scoreboard) -> None:
    slot = board.slot(26)
    assert slot.read_report() == ""
    slot.write_report("x" * (2 * OUTCOME_BYTES) + "ValueError: here")
    assert slot.read_report().endswith("ValueError: here")
    assert len(slot.read_report()) == OUTCOME_BYTES


def test_a_report_is_no_outcome(board: Scoreboard) -> None:
    slot = board.slot(28)
    slot.append_outcome(b"settled long ago")
    slot.write_report("Traceback")
    assert (slot.read_outcomes(), slot.words[C_OUTCOME_BYTES]) == ([], 0)
    assert slot.read_report() == "Traceback"


def test_a_report_of_a_nonsensical_length_is_cut(board: Scoreboard) -> None:
    slot = board.slot(29)
    slot.write_report("Traceback")
    slot.words[C_REPORT_BYTES] = OUTCOME_BYTES * 1000
    assert slot.read_report().startswith("Traceback")
    assert len(slot.read_report()) == OUTCOME_BYTES


def test_a_slot_is_clean_for_its_next_child(board: Scoreboard) -> None:
    slot = board.slot(27)
    slot.words[C_HELD] = 5
    slot.write_report("old")
    slot.clear(9)
    assert (slot.words[C_HELD], slot.words[S_GENERATION], slot.read_report()) == (0, 9, "")


def test_the_wake_address_is_within_the_mapping_and_of_the_slot(board: Scoreboard) -> None:
    address = board.slot(28).wake_address()
    board.buffer[address : address + 4] = b"\x01\x00\x00\x00"
    assert board.slot(28).words[56] == 1
    assert os.sysconf("SC_PAGE_SIZE") >= 4096
