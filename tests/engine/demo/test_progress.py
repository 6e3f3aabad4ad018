"""The progress bar."""

from __future__ import annotations

import io

from prefork.engine.demo.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_nobody_watches() -> None:
    stream = io.StringIO()
    progress = Progress(stream, 10)
    progress.show(5, "half")
    progress.close()
    assert stream.getvalue() == ""


def test_the_bar_fills_and_is_erased_in_the_end() -> None:
    stream = Terminal()
    progress = Progress(stream, 4)
    progress.show(1, "a")
    progress.show(4, "b")
    progress.close()
    lines = stream.getvalue().split("\r\x1b[K")
    assert [line.count("#") for line in lines] == [0, 8, 32, 0]
    assert "1/4 a" in lines[1]


def test_the_same_line_is_not_drawn_twice() -> None:
    stream = Terminal()
    progress = Progress(stream, 4)
    progress.show(1, "a")
    progress.show(1, "a")
    assert stream.getvalue().count("1/4") == 1


def test_no_work_is_no_division_by_zero() -> None:
    stream = Terminal()
    Progress(stream, 0).show(0)
    assert stream.getvalue() == ""
