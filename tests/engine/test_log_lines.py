"""Log records as lines: nothing in a message passes for another record, and no write is ever torn."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import log_lines, task_context
from prefork.engine.log_formats import (
    LINE_MAX_BYTES,
    JsonFormatter,
    LineFormatter,
    TaskFields,
    escape_line,
    make_formatter,
)
from prefork.engine.log_lines import (
    PIPE_LINE_MAX_BYTES,
    FileLineHandler,
    LineHandler,
    LogFileError,
    open_handler,
    pieces,
)


def record(message: Any = "hello", *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("app.module", level, "/app/module.py", 7, message, args, None)
    made.__dict__.update(extra)
    return made


def failed(text: str) -> logging.LogRecord:
    try:
        raise ValueError(text)
    except ValueError:
        made = record("failed", level=logging.ERROR)
        made.exc_info = sys.exc_info()
        return made


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


# --- what a line may contain


@given(st.text())
def test_a_line_holds_no_control_character_and_every_further_line_is_indented(text: str) -> None:
    escaped = escape_line(text)
    first, *others = escaped.split("\n")
    assert all(line.startswith("    ") for line in others)
    assert not any(ord(char) < 32 and char not in "\t\n" or 127 <= ord(char) < 160 for char in escaped)
    assert len(others) == text.count("\n")


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_letters_of_every_language_are_left_alone(text: str) -> None:
    assert escape_line(text) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("a\rb", "a\\rb"),
        ("a\u2028b\u202eb", "a\\u2028b\\u202eb"),
        ("a\tb", "a\tb"),
        ("x\n[2026: INFO/Main] forged", "x\n    [2026: INFO/Main] forged"),
    ],
)
def test_what_could_deceive_a_reader_is_made_visible(text: str, escaped: str) -> None:
    assert escape_line(text) == escaped


# --- formats


def test_the_default_format_is_celerys() -> None:
    line = LineFormatter(datefmt="%Y").format(record("hello %s", "you", processName="child-1"))
    assert line.endswith(": INFO/child-1] hello you")
    assert line.startswith("[2")


def test_the_exception_follows_indented_even_if_its_text_forges_a_record() -> None:
    first, *others = LineFormatter("%(message)s").format(failed("boom\n[2026] forged\x1b[0m")).split("\n")
    assert first == "failed"
    assert all(line.startswith("    ") for line in others)
    assert "    [2026] forged\\x1b[0m" in others


def test_the_stack_and_a_ready_made_exception_text_are_shown() -> None:
    line = LineFormatter("%(message)s").format(
        record("m", exc_text="Traceback\n  x", stack_info="Stack\n  y")
    )
    assert line.split("\n") == ["m", "    Traceback", "      x", "    Stack", "      y"]


def test_task_fields_are_those_of_the_running_task_or_question_marks() -> None:
    formatter = LineFormatter("%(task_name)s[%(task_id)s]: %(message)s")
    assert formatter.format(record()) == "???[???]: hello"
    token = task_context.set_current("id-1", "tasks.add\n")
    try:
        assert formatter.format(record()) == "tasks.add\n    [id-1]: hello"
        assert formatter.format(record(task_id="own", task_name="own")) == "own[own]: hello"
    finally:
        task_context.restore(token)


def test_colour_wraps_the_line_by_its_level() -> None:
    formatter = make_formatter("%(message)s", colour=True)
    assert formatter.format(record(level=logging.ERROR)) == "\x1b[31mhello\x1b[0m"
    assert formatter.format(record(level=logging.INFO)) == "hello"


def test_a_json_line_has_the_fields_of_the_record_and_of_the_task() -> None:
    token = task_context.set_current("id-1", "tasks.add")
    try:
        text = make_formatter("", json_lines=True).format(record("hi\nthere", data={"n": 1}, odd=object))
    finally:
        task_context.restore(token)
    fields = json.loads(text)
    assert "\n" not in text
    assert fields["message"] == "hi\nthere"
    assert (fields["task_id"], fields["task_name"]) == ("id-1", "tasks.add")
    assert (fields["level"], fields["logger"], fields["pid"]) == ("INFO", "app.module", os.getpid())
    assert (fields["data"], fields["odd"]) == ({"n": 1}, "<class 'object'>")
    assert fields["time"].endswith("Z")


def test_a_json_line_carries_exception_and_stack() -> None:
    fields = json.loads(JsonFormatter().format(failed("boom")))
    assert fields["exception"].endswith("ValueError: boom")
    assert "task_id" not in fields
    fields = json.loads(JsonFormatter().format(record(exc_text="ready", stack_info="stack")))
    assert (fields["exception"], fields["stack"]) == ("ready", "stack")


class Angry:
    def __repr__(self) -> str:
        raise RuntimeError("no")


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("value", [float("nan"), {(1, 2): 3}, CYCLE, Angry(), "\ud800", b"\xff"])
def test_nothing_that_a_program_adds_breaks_the_json(value: Any) -> None:
    fields = json.loads(JsonFormatter().format(record(added=value)))
    assert fields["message"] == "hello"
    assert "added" in fields


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


def test_the_filter_adds_the_fields_to_records_for_handlers_of_the_program() -> None:
    made = record()
    assert TaskFields().filter(made) is True
    assert (made.__dict__["task_id"], made.__dict__["task_name"]) == ("???", "???")
