"""What is printed becomes log records."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.redirected import BUFFER_MAX_CHARS, RedirectedStream
from support.waiting import Background


class Kept(logging.Handler):
    """Keeps what was logged; prints each record too, where asked."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.prints_to: RedirectedStream | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.prints_to is not None:
            print("handler:", record.getMessage(), file=self.prints_to, flush=True)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


def stream_to(original: io.TextIOBase | None, level: int = logging.WARNING) -> tuple[RedirectedStream, Kept]:
    logger, kept = logging.Logger("redirected"), Kept()
    logger.addHandler(kept)
    return RedirectedStream(logger, level, original), kept  # type: ignore[arg-type]


def test_each_printed_line_is_a_record_at_the_level_that_was_asked_for() -> None:
    stream, kept = stream_to(io.StringIO(), logging.INFO)
    print("one", "two", file=stream)
    print("three\nfour", file=stream)
    assert kept.lines == ["one two", "three", "four"]
    assert {record.levelname for record in kept.records} == {"INFO"}


def test_part_of_a_line_waits_for_its_end_or_for_a_flush() -> None:
    stream, kept = stream_to(io.StringIO())
    print("a", end="", file=stream)
    print("b", end="", file=stream)
    assert kept.lines == []
    print("c", file=stream)
    print("d", end="", file=stream, flush=True)
    stream.flush()
    assert kept.lines == ["abc", "d"]


def test_empty_lines_and_carriage_returns_are_no_records() -> None:
    stream, kept = stream_to(io.StringIO())
    stream.write("\n  \n\r\ntext\r\n")
    assert kept.lines == ["text"]


def test_percent_signs_are_text() -> None:
    stream, kept = stream_to(io.StringIO())
    stream.write("100%s %d\n")
    assert kept.lines == ["100%s %d"]


@given(st.lists(st.text("ab \n", max_size=30), max_size=10))
def test_records_are_the_lines_however_they_were_cut_into_writes(texts: list[str]) -> None:
    stream, kept = stream_to(io.StringIO())
    stream.writelines(texts)
    stream.flush()
    assert kept.lines == [line for line in "".join(texts).split("\n") if line.strip()]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_long_line_is_logged_in_pieces_with_nothing_lost(end: str) -> None:
    stream, kept = stream_to(io.StringIO())
    text = "0123456789" * 100_000
    assert stream.write(text + end) == len(text + end)
    stream.flush()
    assert "".join(kept.lines) == text
    assert max(map(len, kept.lines)) == BUFFER_MAX_CHARS


def test_a_handler_that_prints_prints_to_the_original_and_not_to_itself() -> None:
    original = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=False)
    stream, kept = stream_to(original)
    kept.prints_to = stream
    print("hello", file=stream)
    assert kept.lines == ["hello"]
    assert original.buffer.getvalue() == b"handler: hello\n"  # type: ignore[attr-defined]


def test_a_handler_may_print_although_the_original_is_closed_from_the_start() -> None:
    stream, kept = stream_to(None)
    kept.prints_to = stream
    print("hello", file=stream)
    assert kept.lines == ["hello"]
    with pytest.raises(io.UnsupportedOperation, match="closed"):
        stream.fileno()


def test_a_handler_that_raises_leaves_the_stream_usable() -> None:
    stream, kept = stream_to(io.StringIO())

    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("filter")

    kept.addFilter(refuse)
    with pytest.raises(RuntimeError, match="filter"):
        print("lost", file=stream)
    kept.removeFilter(refuse)
    print("kept", file=stream)
    assert kept.lines == ["kept"]


def test_each_thread_prints_its_own_lines() -> None:
    stream, kept = stream_to(io.StringIO())
    stream.write("main ")
    Background(lambda: stream.write("thread\n")).result()
    stream.write("goes on\n")
    assert kept.lines == ["thread", "main goes on"]


def test_only_text_can_be_written() -> None:
    stream, _ = stream_to(io.StringIO())
    with pytest.raises(TypeError, match="not bytes"):
        stream.write(b"bytes")  # type: ignore[arg-type]


def test_the_stream_describes_itself() -> None:
    stream, _ = stream_to(sys.__stderr__)
    assert (stream.encoding, stream.errors) == ("utf-8", "backslashreplace")
    assert (stream.isatty(), stream.writable(), stream.readable()) == (False, True, False)
    assert stream.fileno() == 2
