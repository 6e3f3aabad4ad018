"""Log records as text: nothing in a message passes for another record."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import task_context
from prefork.engine.log_formats import JsonFormatter, LineFormatter, TaskFields, escape_line, make_formatter
from support.log_records import Angry, failed, record

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


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("value", [float("nan"), {(1, 2): 3}, CYCLE, Angry(), "\ud800", b"\xff"])
def test_nothing_that_a_program_adds_breaks_the_json(value: Any) -> None:
    fields = json.loads(JsonFormatter().format(record(added=value)))
    assert fields["message"] == "hello"
    assert "added" in fields


def test_the_filter_adds_the_fields_to_records_for_handlers_of_the_program() -> None:
    made = record()
    assert TaskFields().filter(made) is True
    assert (made.__dict__["task_id"], made.__dict__["task_name"]) == ("???", "???")
