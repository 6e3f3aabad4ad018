from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.base import TAG_BYTES_MAX
from prefork.transports.filesystem import layout, pages
from prefork.transports.filesystem.layout import SegmentId

names = st.text(st.characters(), max_size=400)
segment_ids = st.builds(SegmentId, st.integers(0, 0xFFFFFFFF), st.integers(0, 9), st.integers(0, 0xFFFFFFFF))


@given(names)
def test_a_name_becomes_one_safe_file_name_and_comes_back(name: str) -> None:
    encoded = layout.encode_name(name)
    assert 0 < len(encoded.encode()) <= 255
    assert "/" not in encoded and "\0" not in encoded and encoded not in (".", "..")
    assert not encoded.startswith(".")
    if layout.is_hashed(encoded):
        assert layout.decode_name(encoded) is None
    else:
        assert layout.decode_name(encoded) == name


@given(names, names)
def test_two_names_never_share_a_file(first: str, second: str) -> None:
    assert (layout.encode_name(first) == layout.encode_name(second)) == (first == second)


@given(st.text())
def test_a_foreign_name_is_decoded_only_if_it_would_be_made_so(encoded: str) -> None:
    name = layout.decode_name(encoded)
    assert name is None or layout.encode_name(name) == encoded


@given(segment_ids)
def test_a_segment_name_comes_back(segment_id: SegmentId) -> None:
    name = segment_id.path().rpartition("/")[2]
    assert layout.parse_segment_name(name) == segment_id


@given(st.one_of(st.text(), st.from_regex(r"\d{0,3}p?\d{1,2}-\d{1,9}\.seg", fullmatch=True)))
def test_only_names_of_segments_are_parsed(name: str) -> None:
    found = layout.parse_segment_name(name)
    assert found is None or found.path().rpartition("/")[2] == name


def test_tags_fit_the_scoreboard() -> None:
    assert layout.TAG_PREFIX.size + layout.TAG_SLOT.size <= TAG_BYTES_MAX


def test_states_of_a_segment_lie_in_one_page() -> None:
    # The commit of a settle is one write of them, which SIGKILL cannot tear within a page.
    assert layout.SLOTS_MAX <= layout.PAGE_BYTES
    for slots in (layout.SLOTS_BUCKET, layout.SLOTS_SMALL, layout.SLOTS_MAX):
        assert layout.CLAIMS_AT < layout.records_at(slots) < layout.entries_at(slots) < layout.data_at(slots)
        assert layout.data_at(slots) % layout.PAGE_BYTES == 0
        assert layout.records_at(slots) % layout.RECORD.size == 0


counts = st.lists(st.integers(0, 2**63), min_size=pages.STREAMS, max_size=pages.STREAMS)


@given(counts, counts, st.integers(0, 2**62))
def test_pages_keep_what_is_put_in(enqueued: list[int], taken: list[int], due_ms: int) -> None:
    in_page, out_page = pages.new_in_page(), pages.new_out_page()
    for stream in range(pages.STREAMS):
        in_page.set_count(stream, enqueued[stream])
        out_page.set_count(stream, taken[stream])
    in_page.next_due_ms = due_ms
    in_page.ring()
    in_data, out_data = bytes(in_page.pack()), bytes(out_page.pack())
    assert pages.is_whole(in_data, pages.InPage.magic) and pages.is_whole(out_data, pages.OutPage.magic)
    assert not pages.is_whole(in_data, pages.OutPage.magic)
    assert pages.waiting(in_data, out_data) == [max(0, a - b) for a, b in zip(enqueued, taken)]
    assert pages.same_counts(in_data, out_data) == (enqueued == taken)
    assert pages.next_due_ms(in_data) == due_ms


@given(st.binary(max_size=300), st.integers(0, pages.PAGE_SIZE - 1), st.integers(1, 255))
def test_a_damaged_page_is_never_taken_for_whole(garbage: bytes, place: int, change: int) -> None:
    assert not pages.is_whole(garbage, pages.InPage.magic)
    data = bytearray(pages.new_in_page().pack())
    data[place] ^= change
    assert not pages.is_whole(bytes(data), pages.InPage.magic)
