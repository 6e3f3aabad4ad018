"""Tables and JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.cli.output import as_json, complain, safe, safe_lines, table


def test_columns_line_up_and_numbers_stand_to_the_right() -> None:
    shown = table(("queue", "ready"), [("celery", 5), ("a", 1200)])
    assert shown.splitlines() == ["QUEUE   READY", "celery      5", "a        1200"]


def test_an_empty_table_is_its_headings() -> None:
    assert table(("queue", "ready"), []) == "QUEUE  READY"


def test_none_is_an_empty_cell() -> None:
    assert table(("a", "b"), [(None, "x")]).splitlines()[1] == "   x"


@given(st.text())
def test_no_text_can_forge_a_line_or_move_the_cursor(text: str) -> None:
    assert safe(text).isprintable()
    assert table(("cell",), [(text,)]).count("\n") == 1


@given(st.text(st.characters(categories=["L", "C", "Zl", "Zp", "Cs"])))
def test_no_text_in_a_document_can_move_the_cursor_and_it_reads_the_same(text: str) -> None:
    document = as_json([text])
    assert not any(character in document for character in "\x1b\x7f\x9b\u2028\u202e")
    assert json.loads(document) == json.loads(json.dumps([text]))
    document.encode()


@given(st.text())
def test_a_text_of_several_lines_keeps_them_and_nothing_else(text: str) -> None:
    lines = safe_lines(text).split("\n")
    assert len(lines) == text.count("\n") + 1
    assert all(line.isprintable() for line in lines)


def test_a_complaint_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a\x1b[2J\nb\x9b")
    assert capsys.readouterr().err == "prefork: a\\x1b[2J\nb\\x9b\n"


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    if text.isprintable():
        assert safe(text) == text


def test_json_keeps_letters_and_shows_what_it_does_not_know_as_text() -> None:
    assert json.loads(as_json({"name": "é", "kind": {1}})) == {"name": "é", "kind": "{1}"}
    assert "é" in as_json("é")
