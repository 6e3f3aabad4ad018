"""Names of log files."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.log_file import BadLogFileTemplate, expand, has_child_field

NAMES = st.text(st.characters(exclude_characters="@"), max_size=20)


@pytest.mark.parametrize(
    ("template", "index", "path"),
    [
        ("/var/log/%n.log", 0, "/var/log/w1.log"),
        ("%h.log", 0, "db.example.org.log"),
        ("%d.log", 0, "example.org.log"),
        ("%p.log", 0, "w1@db.example.org.log"),
        ("%n-%i.log", 0, "w1-0.log"),
        ("%n-%i.log", 3, "w1-3.log"),
        ("%n%I.log", 0, "w1.log"),
        ("%n%I.log", 3, "w1-3.log"),
        ("100%%%n", 0, "100%w1"),
        ("plain.log", 2, "plain.log"),
        ("ends with %", 0, "ends with %"),
    ],
)
def test_each_field_stands_for_its_part_of_the_node(template: str, index: int, path: str) -> None:
    assert expand(template, "w1@db.example.org", index) == path


@pytest.mark.parametrize("node", ["w1", "w1@"])
def test_the_host_is_added_where_it_is_missing(node: str) -> None:
    assert expand("%p", node) == f"w1@{os.uname().nodename}"
    assert expand("%h", node) == os.uname().nodename


def test_a_node_without_a_name_has_the_usual_one() -> None:
    assert expand("%n %p", "@db") == "celery celery@db"


def test_a_host_without_a_domain_has_an_empty_one() -> None:
    assert expand("[%d]", "w1@db") == "[]"


@pytest.mark.parametrize("field", ["x", "N", "s", " ", "\n"])
def test_a_field_that_does_not_exist_is_named(field: str) -> None:
    template = f"/var/log/%{field}.log"
    with pytest.raises(BadLogFileTemplate, match="there are %n") as caught:
        expand(template, "w1@db")
    assert (caught.value.template, caught.value.field) == (template, field)
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize(
    ("template", "own"),
    [("%n%I.log", True), ("%i", True), ("%n.log", False), ("%%i", False), ("%%%i", True), ("i", False)],
)
def test_children_have_files_of_their_own_where_the_template_names_them(template: str, own: bool) -> None:
    assert has_child_field(template) is own


@given(
    name=NAMES | st.sampled_from([".", "..", "../..", "/etc/passwd", "a\0b"]),
    host=NAMES | st.sampled_from([".", "..", "h.../..", "h..."]),
    field=st.sampled_from("nhdp"),
)
def test_no_name_of_a_node_leaves_the_directory_of_the_template(name: str, host: str, field: str) -> None:
    path = expand(f"/var/log/%{field}/worker.log", f"{name}@{host}")
    folder = path.removeprefix("/var/log/").removesuffix("/worker.log")
    assert "/" not in folder
    assert "\0" not in folder
    assert folder not in {".", ".."}


@given(st.text(), NAMES, st.integers(0, 10_000))
def test_any_template_is_expanded_or_refused(template: str, name: str, index: int) -> None:
    try:
        path = expand(template, f"{name}@host", index)
    except BadLogFileTemplate as error:
        assert f"%{error.field}" in template
    else:
        assert path.count("/") == template.count("/")
