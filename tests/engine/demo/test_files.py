"""Which files the demonstration reads."""

from __future__ import annotations

import os
from pathlib import Path

from prefork.engine.demo.files import own_sources, text_files


def test_text_is_found_below_a_folder_in_a_stable_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/two.md", "a.txt", "c.py"):
        (tmp_path / name).write_text("words")
    names = [p.relative_to(tmp_path).as_posix() for p in text_files(tmp_path, 10)]
    assert names == ["a.txt", "c.py", "b/two.md"]
    assert len(text_files(tmp_path, 2)) == 2


def test_what_is_no_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"a\x00b")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("x")
    assert [p.name for p in text_files(tmp_path, 10)] == ["real"]


def test_the_package_has_enough_sources_of_its_own() -> None:
    files = text_files(own_sources(), 1000)
    assert len(files) > 50
    assert Path(__file__).name not in {p.name for p in files}
