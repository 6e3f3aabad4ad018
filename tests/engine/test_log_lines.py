"""Log lines are written whole: to pipes, to files, to whoever has gone; no write is ever torn."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import log_lines
from prefork.engine.log_formats import LINE_MAX_BYTES, JsonFormatter, LineFormatter
from prefork.engine.log_lines import (
    PIPE_LINE_MAX_BYTES,
    FileLineHandler,
    LineHandler,
    LogFileError,
    open_handler,
    pieces,
)
from support.log_records import Angry, failed, record


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            assert fd >= 0  # the test closed it


def lines_of(reader: int) -> list[str]:
    return os.read(reader, 1 << 20).decode().splitlines()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every write of the handlers, in order."""
    made: list[bytes] = []
    original = os.write

    def counted(fd: int, data: bytes) -> int:
        made.append(bytes(data))
        return original(fd, data)

    monkeypatch.setattr(log_lines.os, "write", counted)
    return made


# --- writing


def test_each_record_is_one_write(pipe: tuple[int, int], writes: list[bytes]) -> None:
    handler = LineHandler(pipe[1])
    handler.handle(failed("boom"))
    handler.handle(record("two\nlines"))
    assert len(writes) == 2
    assert all(data.endswith(b"\n") for data in writes)


def test_records_of_many_threads_are_never_torn(tmp_path: Path) -> None:
    handler = FileLineHandler(str(tmp_path / "log"))
    handler.setFormatter(LineFormatter("%(message)s"))

    def write(letter: str) -> None:
        for _ in range(200):
            handler.handle(record(letter * 500))

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    handler.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(letter * 500 for letter in "abcd" for _ in range(200))


def test_the_process_name_of_the_handler_wins(pipe: tuple[int, int]) -> None:
    handler = LineHandler(pipe[1], process_name="child-3")
    handler.setFormatter(LineFormatter("%(processName)s %(message)s"))
    handler.handle(record())
    assert lines_of(pipe[0]) == ["child-3 hello"]


def test_a_record_that_cannot_be_formatted_says_so_in_its_place(pipe: tuple[int, int]) -> None:
    for formatter in (LineFormatter("%(message)s"), JsonFormatter()):
        handler = LineHandler(pipe[1])
        handler.setFormatter(formatter)
        handler.handle(record("%d", "x"))
        handler.handle(record(Angry()))
        first, second = lines_of(pipe[0])
        assert "this record cannot be formatted (TypeError(" in first
        assert "its repr raised RuntimeError" in second


def test_a_lone_surrogate_is_written_escaped(pipe: tuple[int, int]) -> None:
    handler = LineHandler(pipe[1])
    handler.handle(record("x\ud800"))
    assert lines_of(pipe[0]) == ["x\\ud800"]


def test_filters_of_the_handler_are_honoured(pipe: tuple[int, int]) -> None:
    handler = LineHandler(pipe[1])
    handler.addFilter(lambda entry: entry.levelno > logging.INFO)
    assert handler.handle(record("quiet")) is False
    assert handler.handle(record("loud", level=logging.ERROR)) is True
    assert lines_of(pipe[0]) == ["loud"]


def test_a_very_long_record_is_cut(tmp_path: Path) -> None:
    handler = FileLineHandler(str(tmp_path / "log"))
    handler.handle(record("é" * LINE_MAX_BYTES))
    handler.close()
    data = (tmp_path / "log").read_bytes()
    assert len(data) <= LINE_MAX_BYTES
    assert data.decode().endswith("é [cut]\n")


@given(st.binary(max_size=200), st.integers(1, 50))
def test_pieces_are_short_and_make_up_the_whole(data: bytes, limit: int) -> None:
    parts = pieces(data, limit)
    assert b"".join(parts) == data
    assert all(len(part) <= limit for part in parts)


def test_who_must_not_block_drops_lines_and_says_how_many(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = LineHandler(writer, blocking=False)
    handler.setFormatter(LineFormatter("%(message)s"))
    for _ in range(100):
        handler.handle(record("x" * (PIPE_LINE_MAX_BYTES - 1)))
    dropped = handler.dropped
    assert 0 < dropped < 100
    os.read(reader, 1 << 20)
    handler.handle(record("again"))
    note, line = lines_of(reader)
    assert note.startswith(f"{dropped} log lines were dropped")
    assert line == "again"
    handler.handle(record("and again"))
    assert lines_of(reader) == ["and again"]
    assert handler.dropped == dropped


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    for blocking in (True, False):
        handler = LineHandler(pipe[1], blocking=blocking)
        handler.handle(record())
        assert handler.dropped == 1


def test_a_descriptor_that_is_closed_costs_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    handler = LineHandler(writer)
    handler.handle(record())
    assert handler.dropped == 1


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    handler = FileLineHandler("/dev/full")
    handler.handle(record())
    assert handler.dropped == 1
    handler.close()


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_FULL_PIPE_WAIT_MS", 60_000)  # the reader may be slow to begin
    reader, writer = pipe
    os.set_blocking(writer, False)
    handler = LineHandler(writer)
    handler.setFormatter(LineFormatter("%(message)s"))
    while True:
        try:
            os.write(writer, b"y" * 4095 + b"\n")
        except BlockingIOError:
            break
    received: list[bytes] = []
    done = threading.Event()

    def drain() -> None:
        while b"late\n" not in b"".join(received[-2:]):
            received.append(os.read(reader, 1 << 16))
        done.set()

    threading.Thread(target=drain, daemon=True).start()
    handler.handle(record("late"))
    assert done.wait(10)
    assert handler.dropped == 0


def test_a_handler_has_no_lock_that_a_fork_could_leave_taken(pipe: tuple[int, int]) -> None:
    handler = LineHandler(pipe[1])
    assert handler.lock is None
    handler.acquire()
    pid = os.fork()
    if pid == 0:
        handler.handle(record("from the child"))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert lines_of(pipe[0]) == ["from the child"]


# --- files


def test_a_log_file_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    for text in ("one", "two"):
        handler = open_handler(str(path))
        handler.handle(record(text))
        handler.close()
        handler.close()
    assert path.read_text().splitlines() == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_cannot_be_opened_names_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "worker.log")
    with pytest.raises(LogFileError, match="is its directory there") as caught:
        open_handler(path)
    assert caught.value.path == path


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the handlers; an hour passes with each append."""
    passed = [0.0]
    monkeypatch.setattr(log_lines, "mono_s", lambda: 3600.0 * len(passed))
    return passed


def test_a_rotated_log_file_is_followed(tmp_path: Path, hours: list[float]) -> None:
    path = tmp_path / "worker.log"
    handler = FileLineHandler(str(path))
    handler.handle(record("one"))
    path.rename(tmp_path / "worker.log.1")
    handler.handle(record("within the second"))
    hours.append(0)
    handler.handle(record("two"))
    handler.close()
    assert (tmp_path / "worker.log.1").read_text().splitlines() == ["one", "within the second"]
    assert path.read_text().splitlines() == ["two"]


def test_a_log_file_whose_directory_is_gone_keeps_taking_lines(tmp_path: Path, hours: list[float]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = FileLineHandler(str(folder / "worker.log"))
    folder.rename(tmp_path / "moved")
    hours.append(0)
    handler.handle(record("one"))
    assert (handler.failed_reopens, handler.dropped) == (1, 0)
    handler.close()
    assert (tmp_path / "moved" / "worker.log").read_text().splitlines() == ["one"]


def test_a_closed_log_file_drops_lines(tmp_path: Path, hours: list[float]) -> None:
    handler = FileLineHandler(str(tmp_path / "worker.log"))
    handler.close()
    hours.append(0)
    handler.handle(record())
    assert handler.dropped == 1


def test_reopening_goes_on_in_another_file_or_stays_where_it_is(tmp_path: Path) -> None:
    handler = FileLineHandler(str(tmp_path / "a"))
    handler.reopen(str(tmp_path / "b"))
    with pytest.raises(LogFileError):
        handler.reopen(str(tmp_path / "missing" / "c"))
    handler.handle(record("one"))
    handler.close()
    assert (tmp_path / "b").read_text() == "one\n"


# --- the supervisor logs with these


def test_the_modules_that_the_supervisor_logs_with_load_the_standard_library_only() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "import prefork.engine.log_lines, prefork.engine.log_file, prefork.engine.task_context\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split() if not name.startswith("__editable__")}
    assert loaded - set(sys.stdlib_module_names) == {"prefork"}
    assert loaded.isdisjoint({"asyncio", "multiprocessing", "socket", "concurrent"})
