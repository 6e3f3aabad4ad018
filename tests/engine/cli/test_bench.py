"""`prefork bench` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main

TINY = ["--messages", "40", "--probes", "2"]


def test_the_table_ends_with_a_recommendation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broker = f"filesystem://{tmp_path / 'queue'}"
    assert main(["bench", "-b", broker, "-c", "1,1", "--read-ahead", "0,2", *TINY]) == ExitCode.OK
    heading, first, second, advice = capsys.readouterr().out.strip().splitlines()
    assert heading.split()[:3] == ["CONCURRENCY", "READ-AHEAD", "TASKS/S"]
    assert [first.split()[:2], second.split()[:2]] == [["1", "0"], ["1", "2"]]
    assert advice.startswith("recommended: prefork worker --concurrency 1 --prefetch-multiplier ")


def test_json_has_every_trial_and_the_recommended_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = f"filesystem://{tmp_path / 'queue'}"
    arguments = ["bench", "-b", broker, "-c", "1", "--read-ahead", "1", "--task-ms", "1", "--json", *TINY]
    assert main(arguments) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["task_ms"] == 1.0
    assert document["recommended"] == document["trials"][0]
    assert document["trials"][0]["per_s"] > 0


def test_a_broker_within_one_process_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-b", "memory://", *TINY]) == ExitCode.USAGE
    assert "lives within one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--messages", "1"], ["--probes", "0"], ["--task-ms", "-1"]],
    ids=["one message", "no probe", "negative time"],
)
def test_numbers_that_measure_nothing_are_refused(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "-b", f"filesystem://{tmp_path / 'queue'}", *wrong]) == ExitCode.USAGE
    assert "at least" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["none", "1,,2", "0"])
def test_a_list_of_concurrencies_that_is_none_is_refused(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "-b", "memory://", "-c", wrong])
    assert repr(wrong) in capsys.readouterr().err


def test_a_trial_that_fails_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "-b", f"filesystem://{tmp_path / 'queue'}", "-c", "1", "--read-ahead", "1"]
    slow = ["--task-ms", "700", "--timeout", "0.3", "--messages", "5", "--probes", "1"]
    assert main([*arguments, *slow]) == ExitCode.FAILED
    assert "tasks started within 0.3 s" in capsys.readouterr().err
