"""What became of each task of the demonstration, as a table and in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TextIO

from ..log_formats import escape_line
from ..result import AsyncResult

_LARGEST = 5


class Kind(Enum):
    """The four things that are demonstrated."""

    COUNT = "count words"
    CRASH = "crash once"
    LIMIT = "exceed limit"
    RETRY = "retry once"


class Ending(Enum):
    """How a task ended."""

    OPEN = "no result in time"
    SUCCEEDED = "succeeded"
    FAILED_AS_PLANNED = "failed as planned"
    FAILED = "failed"


def _any_value(_: Any) -> bool:
    return True


@dataclass
class Case:
    """One task that was sent.

    :param correct: whether a value is the right one.
    :ivar ending: written once, by the process that collects.
    """

    kind: Kind
    what: str
    result: AsyncResult[Any]
    correct: Callable[[Any], bool] = _any_value
    ending: Ending = field(default=Ending.OPEN)
    value: Any = None
    note: str = ""

    def settle(self, value: Any) -> None:
        """The task returned."""
        self.value = value
        # A task that was to fail and did not is as wrong as a wrong answer.
        right = self.kind is not Kind.LIMIT and self.correct(value)
        self.ending = Ending.SUCCEEDED if right else Ending.FAILED
        self.note = "" if right else f"wrong answer: {value!r}"

    def fail(self, error: Exception, *, planned: bool) -> None:
        """The task raised."""
        self.ending = Ending.FAILED_AS_PLANNED if planned else Ending.FAILED
        self.note = f"{type(error).__name__}: {error}"


def report(cases: Sequence[Case], took_s: float, stream: TextIO) -> bool:
    """Print the outcome; True when everything went as planned."""
    _by_kind(cases, stream)
    _largest(cases, stream)
    wrong = [case for case in cases if case.ending in (Ending.FAILED, Ending.OPEN)]
    for case in wrong:
        what = f"{case.kind.value}: {case.what}: {case.note or case.ending.value}"
        stream.write(f"not as planned: {escape_line(what)}\n")
    stream.write(f"demo: {summary(cases)}, {took_s:.1f} s\n")
    return not wrong and _misfortunes_happened(cases)


def summary(cases: Sequence[Case]) -> str:
    """The counts of the last line."""
    ended = {ending: sum(case.ending is ending for case in cases) for ending in Ending}
    crashes = sum(case.kind is Kind.CRASH and case.ending is Ending.SUCCEEDED for case in cases)
    parts = [
        f"{len(cases)} tasks",
        f"{ended[Ending.SUCCEEDED]} succeeded",
        f"{ended[Ending.FAILED_AS_PLANNED]} failed as planned",
    ]
    if ended[Ending.FAILED]:
        parts.append(f"{ended[Ending.FAILED]} failed")
    parts.append(f"{crashes} crash{'' if crashes == 1 else 'es'} recovered")
    parts.append(f"{ended[Ending.OPEN]} lost")
    return ", ".join(parts)


def _misfortunes_happened(cases: Sequence[Case]) -> bool:
    expected = {
        Kind.CRASH: Ending.SUCCEEDED,
        Kind.LIMIT: Ending.FAILED_AS_PLANNED,
        Kind.RETRY: Ending.SUCCEEDED,
    }
    return all(any(c.kind is kind and c.ending is ending for c in cases) for kind, ending in expected.items())


def _by_kind(cases: Sequence[Case], stream: TextIO) -> None:
    stream.write(f"\n{'TASK':<14}{'SENT':>6}{'SUCCEEDED':>11}{'FAILED':>8}  WHAT HAPPENED\n")
    for kind in Kind:
        mine = [case for case in cases if case.kind is kind]
        if not mine:
            continue
        good = sum(case.ending is Ending.SUCCEEDED for case in mine)
        stream.write(f"{kind.value:<14}{len(mine):>6}{good:>11}{len(mine) - good:>8}  {_story(kind, mine)}\n")


def _story(kind: Kind, cases: Sequence[Case]) -> str:
    if kind is Kind.COUNT:
        words = sum(case.value["words"] for case in cases if case.ending is Ending.SUCCEEDED)
        return f"{words:,} words, each file's hash checked"
    case = cases[0]
    if case.ending is Ending.SUCCEEDED and kind is Kind.CRASH:
        return f"process {case.value} died of signal 9; the task ran again and succeeded"
    if case.ending is Ending.SUCCEEDED and kind is Kind.RETRY:
        return f"succeeded at attempt {case.value}"
    return f"{case.ending.value}: {case.note}"


def _largest(cases: Sequence[Case], stream: TextIO) -> None:
    counted = [case for case in cases if case.kind is Kind.COUNT and case.ending is Ending.SUCCEEDED]
    counted.sort(key=lambda case: (-case.value["words"], case.what))
    if not counted:
        return
    stream.write(f"\n{'WORDS':>8}{'LINES':>8}  {'SHA-256':<14}FILE (the largest of {len(counted)})\n")
    for case in counted[:_LARGEST]:
        value = case.value
        stream.write(
            f"{value['words']:>8}{value['lines']:>8}  {value['sha256'][:12]:<14}{escape_line(case.what)}\n"
        )
    stream.write("\n")
