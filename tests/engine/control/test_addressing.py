"""Which workers a request is for."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.control.addressing import PATTERN_LENGTH_MAX, is_addressed, matches


@pytest.mark.parametrize(
    ("destination", "pattern", "matcher", "meant"),
    [
        (None, None, None, True),
        ([], None, None, True),
        (["w@h"], None, None, True),
        (["x@h", "w@h"], None, None, True),
        (["x@h"], None, None, False),
        (None, "w*", "glob", True),
        (None, "x*", "glob", False),
        (None, r"^w@\w$", "pcre", True),
        (None, r"@", "pcre", False),  # matched from the beginning
        (["x@h"], "w*", "glob", True),  # either is enough
        (["x@h"], "y*", "glob", False),
        (None, "x*", None, True),  # half of it is not in force
        (None, None, "glob", True),
    ],
)
def test_destination_pattern_and_matcher(
    destination: list[str] | None, pattern: str | None, matcher: str | None, meant: bool
) -> None:
    assert is_addressed("w@h", destination, pattern, matcher) is meant


@pytest.mark.parametrize(
    ("pattern", "matcher", "reason"),
    [
        ("w*", "regex", "glob and pcre"),
        ("(", "pcre", "no pattern"),
        ("(a+)+$", "pcre", "repetitions"),
        ("(a|a)*", "pcre", "repetitions"),
        ("(.*){9}", "pcre", "repetitions"),
        (".*.*.*.*x", "pcre", "repetitions"),
        (".?" * 40 + "x", "pcre", "repetitions"),
        ("(|)" * 40 + "x", "pcre", "alternatives"),
        ("(w|.)" * 20 + "x", "pcre", "alternatives"),
        ("(?#[)" + "(|)" * 40 + "x]", "pcre", "comments"),
        ("(?ix)#[\n" + "(|)" * 40 + "x]", "pcre", "comments"),
        (r"[\][]" + "(|)" * 40 + "x]", "pcre", "alternatives"),
        ("x" * (PATTERN_LENGTH_MAX + 1), "glob", "characters"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, matcher: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        matches("w@h", pattern, matcher)


@pytest.mark.parametrize(
    "pattern",
    [
        r"w[*+]?@h",
        r"\w+@[a-z]*",
        r"(w|x)@h",
        r"w\*\+\{|w@h",
        r"(web-)?(?:v|w|x)@h",
        "(" + "|".join(f"w{number}" for number in range(40)) + "|w)@h",
        "|".join(f"w{number}@h" for number in range(30)) + "|w@h",
        r"(?i)W@(?P<host>H|I)",
    ],
)
def test_common_patterns_are_allowed(pattern: str) -> None:
    assert matches("w@h", pattern, "pcre")


@pytest.mark.filterwarnings("ignore:Possible (nested set|set):FutureWarning")
@given(st.text(alphabet="aw@.*+?[](){}|\\^$x", max_size=40), st.sampled_from(["glob", "pcre"]))
def test_no_pattern_takes_long(pattern: str, matcher: str) -> None:
    begun_s = time.process_time()
    try:
        matches("a" * 60 + "@h", pattern, matcher)
    except ValueError:
        pass  # refused, which is quick as well
    assert time.process_time() - begun_s < 1.0
