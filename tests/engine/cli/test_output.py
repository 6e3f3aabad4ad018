"""Tables and JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.cli.output import as_json, safe, table


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


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_printable_text_is_shown_as_it_is(text: str) -> None:
    if text.isprintable():
        assert safe(text) == text


def test_json_keeps_letters_and_shows_what_it_does_not_know_as_text() -> None:
    assert json.loads(as_json({"name": "é", "kind": {1}})) == {"name": "é", "kind": "{1}"}
    assert "é" in as_json("é")
