"""Every snippet of the documentation runs, and every link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import PageRun, blocks, matches
from support.source_tree import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
RUN = [name for name, page in zip(NAMES, PAGES, strict=True) if blocks(page.read_text(encoding="utf-8"))]
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)


@pytest.fixture
def page_run(tmp_path: Path) -> Iterator[PageRun]:
    run = PageRun(tmp_path)
    run.prepare()
    yield run
    run.close()


@pytest.mark.parametrize("name", RUN)
def test_the_snippets_of_a_page_do_what_it_says(name: str, page_run: PageRun) -> None:
    ran = 0
    for block in blocks((ROOT / name).read_text(encoding="utf-8")):
        page_run.run(block)
        ran += 1
    assert ran


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    page = ROOT / name
    broken = []
    for target in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    seen, todo = set(), [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
        paths = [
            (page.parent / t.partition("#")[0]).resolve() for t in targets if not re.match(r"[a-z]+:|#", t)
        ]
        todo.extend(p for p in paths if p.is_file())
    unreachable = [p.relative_to(ROOT).as_posix() for p in PAGES if p not in seen]
    assert unreachable == []


def test_the_runner_notices_an_output_that_differs(page_run: PageRun) -> None:
    page_run.run(blocks("```console\n$ echo yes\nyes\n```\n")[0])
    with pytest.raises(AssertionError, match="expected"):
        page_run.run(blocks("```console\n$ echo yes\nno\n```\n")[0])
    with pytest.raises(AssertionError, match="exit status 1"):
        page_run.run(blocks("```pycon\n>>> 1 + 1\n3\n```\n")[0])
    with pytest.raises(AssertionError, match="exit status"):
        page_run.run(blocks("```python\nraise SystemExit(3)\n```\n")[0])


def test_the_runner_waits_for_what_a_background_command_shows(page_run: PageRun) -> None:
    page_run.run(
        blocks("```console terminal=2\n$ sh -c 'sleep 0.1; echo ready; sleep 60'\n...ready\n```\n")[0]
    )
    with pytest.raises(AssertionError, match="ended"):
        page_run.run(blocks("```console terminal=3\n$ sh -c 'echo off'\n...ready\n```\n")[0])


def test_three_dots_stand_for_anything() -> None:
    assert matches("a...z", "a b\nc z\n")
    assert not matches("a...z", "a b\nc y\n")


def _anchors(page: Path) -> set[str]:
    """Names of the headings, as the usual renderers make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+\s+(.+?)\s*$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).replace(" ", "-") for h in headings}
