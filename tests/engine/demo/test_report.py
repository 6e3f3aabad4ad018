"""What the demonstration says about how it went."""

from __future__ import annotations

import io
from typing import Any

import pytest

from prefork.engine.demo.report import Case, Ending, Kind, report, summary

COUNTED = {"sha256": "0123456789abcdef", "lines": 3, "words": 1200, "size_bytes": 9}


def case(kind: Kind, value: Any = None, *, correct: bool = True) -> Case:
    made = Case(kind, f"a {kind.value}", None, lambda _: correct)  # type: ignore[arg-type]
    if value is not None:
        made.settle(value)
    return made


def as_planned() -> list[Case]:
    limit = case(Kind.LIMIT)
    limit.fail(TimeoutError("1 s"), planned=True)
    return [
        case(Kind.COUNT, COUNTED),
        case(Kind.COUNT, COUNTED),
        case(Kind.CRASH, 4711),
        limit,
        case(Kind.RETRY, 2),
    ]


def run(cases: list[Case]) -> tuple[bool, str]:
    stream = io.StringIO()
    return report(cases, 4.13, stream), stream.getvalue()


def test_the_last_line_counts_everything_when_all_went_as_planned() -> None:
    good, text = run(as_planned())
    assert good
    assert text.splitlines()[-1] == (
        "demo: 5 tasks, 4 succeeded, 1 failed as planned, 1 crash recovered, 0 lost, 4.1 s"
    )
    assert "2,400 words" in text
    assert "process 4711 died of signal 9" in text
    assert "0123456789ab" in text


def test_a_lost_task_is_counted_and_named() -> None:
    cases = as_planned()
    good, text = run([*cases, case(Kind.COUNT)])
    assert not good
    assert "1 lost" in text.splitlines()[-1]
    assert "not as planned: count words: a count words: no result in time" in text


def test_a_wrong_answer_is_a_failure() -> None:
    good, text = run([*as_planned(), case(Kind.COUNT, COUNTED, correct=False)])
    assert not good
    assert "1 failed, 1 crash recovered" in text
    assert "wrong answer" in text


def test_a_misfortune_that_did_not_happen_is_a_failure() -> None:
    good, _ = run([case(Kind.COUNT, COUNTED)])
    assert not good
    unlimited = case(Kind.LIMIT, "finished")
    assert unlimited.ending is Ending.FAILED


def test_an_unexpected_error_is_no_planned_failure() -> None:
    cases = as_planned()
    broken = case(Kind.COUNT)
    broken.fail(OSError("gone"), planned=False)
    good, text = run([*cases, broken])
    assert not good
    assert "OSError: gone" in text


def test_what_never_ended_counts_as_lost() -> None:
    assert "1 lost" in summary([case(Kind.COUNT)])


@pytest.mark.parametrize("cases", [[], [case(Kind.RETRY, 2)]])
def test_a_report_of_little_is_still_a_report(cases: list[Case]) -> None:
    good, text = run(cases)
    assert not good
    assert text.splitlines()[-1].startswith(f"demo: {len(cases)} tasks")


def test_the_name_of_a_file_cannot_move_the_cursor() -> None:
    cases = as_planned()
    cases[0].what = "a\x1b[2Jb"
    assert "\x1b" not in run(cases)[1]
    cases[0].ending = Ending.OPEN
    assert "a\\x1b[2Jb" in run(cases)[1]
