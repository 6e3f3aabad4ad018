"""Global options: the same before and after the command."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.cli.failures import CommandError, ExitCode
from prefork.engine.cli.options import (
    GlobalOptions,
    collect,
    global_parser,
    split_at_command,
    with_urls_of,
)

WITH_VALUE = ["-A", "--app", "-b", "--broker", "--result-backend", "--config", "--workdir"]
FLAGS = ["-C", "--no-color", "-q", "--quiet", "--skip-checks"]


def test_the_command_is_found_behind_options_and_their_values() -> None:
    before, name, after = split_at_command(["-A", "worker", "-q", "worker", "-l", "info"])
    assert (before, name, after) == (["-A", "worker", "-q"], "worker", ["-l", "info"])


def test_a_line_without_a_command_is_all_options() -> None:
    assert split_at_command(["-A", "proj"]) == (["-A", "proj"], None, [])


def test_an_attached_value_is_not_taken_twice() -> None:
    assert split_at_command(["--app=proj", "-b=x", "call", "x"]) == (["--app=proj", "-b=x"], "call", ["x"])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(WITH_VALUE), st.text(min_size=1)).map(list),
            st.sampled_from(FLAGS).map(lambda flag: [flag]),
        )
    ),
    st.lists(st.text()),
)
def test_what_is_divided_at_the_command_can_be_put_together_again(
    options: list[list[str]], rest: list[str]
) -> None:
    flat = [token for option in options for token in option]
    assert split_at_command([*flat, "worker", *rest]) == (flat, "worker", rest)


@pytest.mark.parametrize("after", [False, True])
def test_an_option_means_the_same_before_and_after_the_command(after: bool) -> None:
    line = [
        "-A",
        "proj:app",
        "-b",
        "memory://",
        "--result-backend",
        "memory://r",
        "-C",
        "-q",
        "--workdir",
        "w",
    ]
    parser = global_parser()
    first = parser.parse_args([] if after else line)
    both = global_parser().parse_args(line if after else [], first)
    assert collect(both) == GlobalOptions(
        app="proj:app", broker="memory://", result_backend="memory://r", workdir="w", color=False, quiet=True
    )


def test_the_later_of_two_wins() -> None:
    first = global_parser().parse_args(["-A", "one"])
    assert collect(global_parser().parse_args(["-A", "two"], first)).app == "two"


def test_the_application_may_come_from_the_environment_but_the_option_wins() -> None:
    assert collect(global_parser().parse_args([]), "proj").app == "proj"
    assert collect(global_parser().parse_args(["-A", "other"]), "proj").app == "other"
    assert collect(global_parser().parse_args([]), "").app is None


def test_options_without_a_meaning_here_are_remembered() -> None:
    options = collect(global_parser().parse_args(["--loader", "x.Loader", "--skip-checks"]))
    assert options.ignored == ("--loader", "--skip-checks")


def test_urls_come_from_a_stream_one_line_each() -> None:
    stream = io.StringIO("redis://one\n redis://two \nthe rest\n")
    options = with_urls_of(GlobalOptions(broker="-", result_backend="-", app="-"), stream)
    assert options == GlobalOptions(broker="redis://one", result_backend="redis://two", app="-")
    assert stream.read() == "the rest\n"


def test_a_stream_is_not_touched_without_need() -> None:
    stream = io.StringIO("redis://one\n")
    given = GlobalOptions(broker="redis://b", result_backend=None)
    assert with_urls_of(given, stream) == given
    assert stream.read() == "redis://one\n"


@pytest.mark.parametrize("flag", ["--broker", "--result-backend"])
def test_a_stream_that_has_ended_is_a_mistake_of_the_caller(flag: str) -> None:
    options = collect(global_parser().parse_args([flag, "-"]))
    with pytest.raises(CommandError, match=f"{flag} -: standard input has no URL") as refused:
        with_urls_of(options, io.StringIO("\n"))
    assert refused.value.code == ExitCode.USAGE
