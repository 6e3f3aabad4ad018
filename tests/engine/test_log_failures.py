"""Logging when things go wrong: no room, no descriptor, no sense in a record; and JSON through it all."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.engine import log_lines
from prefork.engine.log_formats import LINE_MAX_BYTES, JsonFormatter, LineFormatter, safe_repr
from prefork.engine.log_lines import FileLineHandler, LineHandler, open_handler


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class SoftTimeLimitExceeded(Exception):
    """Of the same name as what the signal handler of the soft limit raises."""


class Interrupted:
    def __repr__(self) -> str:
        raise SoftTimeLimitExceeded


class Disk:
    """Stands in for os.write: takes `step` bytes at a time while there is room."""

    def __init__(self, room: int, step: int) -> None:
        self.data, self.room, self.step = b"", room, step

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "disk full")
        taken = data[: min(self.room, self.step)]
        self.data += taken
        self.room -= len(taken)
        return len(taken)


def record(msg: object = "hello", *args: object, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop.orders", logging.INFO, "orders.py", 7, msg, args, None)
    vars(made).update(fields)
    return made


def failing() -> Any:
    try:
        raise KeyError("key")
    except KeyError:
        return sys.exc_info()


def handler_of(fd: int, fmt: logging.Formatter | None = None, *, blocking: bool = True) -> LineHandler:
    handler = LineHandler(fd, blocking=blocking)
    handler.setFormatter(fmt or LineFormatter("%(message)s"))
    return handler


def written(made: logging.LogRecord, fmt: logging.Formatter) -> bytes:
    reading, writing = os.pipe()
    try:
        handler_of(writing, fmt).handle(made)
        return os.read(reading, 1 << 17)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    for size in (4096, 1):
        with pytest.raises(BlockingIOError):
            while os.write(writing, b"x" * size):
                continue
    yield reading, writing
    os.close(reading)
    os.close(writing)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.builds(Unprintable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(anything, st.lists(anything, max_size=2), st.dictionaries(st.text(), anything, max_size=3), anything)
def test_any_record_is_one_line_of_json(
    msg: object, args: list[object], added: dict[str, object], task_id: object
) -> None:
    made = record(msg, *args)
    vars(made).update({key: value for key, value in added.items() if key not in vars(made)}, task_id=task_id)
    data = written(made, JsonFormatter())
    assert (data.count(b"\n"), data[-1:]) == (1, b"\n")
    parsed = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert parsed["level"] == "INFO"


def test_cycles_nan_odd_keys_and_huge_numbers_are_kept_as_text() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    made = record(cycle=cycle, nan=float("nan"))
    vars(made)[(1, 2)] = "odd"  # type: ignore[index]
    parsed = json.loads(JsonFormatter().format(made))
    assert (parsed["cycle"], parsed["nan"], parsed["(1, 2)"]) == ("[[...]]", "nan", "odd")


@pytest.mark.parametrize("text", ["x" * 200_000, "\U0001f600" * 50_000, "\x00" * 70_000])
def test_a_json_line_that_is_too_long_is_cut_and_still_json(text: str) -> None:
    line = JsonFormatter().format(record(text, added=text, task_id=[text], task_name="n"))
    assert len(line) < LINE_MAX_BYTES
    parsed = json.loads(line)
    assert parsed["cut"] is True
    assert " [cut] " in parsed["message"]
    assert "added" not in parsed


@pytest.mark.parametrize("made_blocking", [True, False])
def test_a_full_pipe_drops_lines_and_says_so_in_the_format_of_the_log(
    full_pipe: tuple[int, int], made_blocking: bool
) -> None:
    reading, writing = full_pipe
    os.set_blocking(writing, made_blocking)
    handler = handler_of(writing, JsonFormatter(), blocking=False)
    for _ in range(3):
        handler.handle(record())
    assert handler.dropped == 3
    with pytest.raises(BlockingIOError):
        while os.read(reading, 1 << 16):
            continue
    handler.handle(record("back"))
    note, line = map(json.loads, os.read(reading, 1 << 16).splitlines())
    assert note["message"].startswith("3 log lines were dropped")
    assert (line["message"], handler.dropped) == ("back", 3)


def test_a_shared_pipe_made_non_blocking_is_waited_for_once_and_not_for_each_line(
    full_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_FULL_PIPE_WAIT_MS", 100)
    handler = handler_of(full_pipe[1])
    begin_mono_s = time.monotonic()
    for _ in range(50):
        handler.handle(record())
    assert 0.09 < time.monotonic() - begin_mono_s < 2.0
    assert handler.dropped == 50


def test_a_record_after_a_torn_one_begins_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(room=3, step=1000)
    handler = handler_of(1)
    with monkeypatch.context() as patched:
        patched.setattr(log_lines.os, "write", disk.write)
        handler.emit(record("first"))
        disk.room = 1000
        handler.emit(record("second"))
    torn, note, second, end = disk.data.decode().split("\n")
    assert (torn, second, end, handler.dropped) == ("fir", "second", "", 1)
    assert note.startswith("1 log lines were dropped")


def test_a_short_write_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(room=1000, step=2)
    handler = handler_of(1)
    with monkeypatch.context() as patched:
        patched.setattr(log_lines.os, "write", disk.write)
        handler.emit(record("hello"))
    assert (disk.data, handler.dropped) == (b"hello\n", 0)


@pytest.mark.parametrize("args", [("x",), (1, 2), (Unprintable(),)])
@pytest.mark.parametrize("formatter", [LineFormatter("%(message)s"), JsonFormatter()])
def test_a_record_that_cannot_be_formatted_keeps_its_arguments_and_traceback(
    args: tuple[object, ...], formatter: logging.Formatter
) -> None:
    line = written(record("%d", *args, exc_info=failing()), formatter)
    assert b"this record cannot be formatted" in line
    assert safe_repr(args).encode() in line
    assert b"Traceback" in line


@pytest.mark.parametrize(
    "formatter", [logging.Formatter("%(nosuchfield)s"), LineFormatter("%(nosuchfield)s %(message)s")]
)
def test_a_format_that_fits_no_record_does_not_raise(formatter: logging.Formatter) -> None:
    line = written(record("paid", exc_info=failing()), formatter)
    assert b"INFO/MainProcess" in line
    assert b"'paid'" in line


@pytest.mark.parametrize("fmt", ["%(message)s", "%(nosuchfield)s"])
def test_a_time_limit_that_strikes_while_logging_reaches_the_task(fmt: str) -> None:
    handler = handler_of(1, LineFormatter(fmt))
    with pytest.raises(SoftTimeLimitExceeded):
        handler.handle(record("%r", Interrupted()))


@pytest.mark.parametrize("blocking", [True, False])
def test_a_closed_file_drops_lines_and_never_raises(tmp_path: Path, blocking: bool) -> None:
    handler = open_handler(str(tmp_path / "w.log"), blocking=blocking)
    handler.close()
    handler.handle(record())
    assert handler.dropped == 1


def open_below(folder: Path) -> list[tuple[str, str]]:
    """Descriptors of this process for files of a directory; whatever else it has may come and go."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # the listing itself, or what another thread has closed
            continue
    return [(fd, target) for fd, target in found if target.startswith(f"{folder}/")]


def test_rotation_keeps_the_descriptor_and_leaks_none(tmp_path: Path) -> None:
    handler = FileLineHandler(str(tmp_path / "one.log"))
    [(fd, _)] = open_below(tmp_path)
    for name in ("two.log", "three.log"):
        handler.reopen(str(tmp_path / name))
        handler.handle(record())
    assert open_below(tmp_path) == [(fd, str(tmp_path / "three.log"))]
    handler.close()
    assert open_below(tmp_path) == []
    assert (tmp_path / "one.log").read_bytes() == b""
    assert b"hello" in (tmp_path / "two.log").read_bytes()
