"""`prefork worker`: what the supervisor is told."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.boot import BootSpec
from prefork.engine.cli import worker
from prefork.engine.cli.failures import CommandError, ExitCode
from prefork.engine.cli.options import GlobalOptions
from prefork.engine.cli.worker_options import WITHOUT_EFFECT

APP = GlobalOptions(app="proj:app")
SECRET = GlobalOptions(app="proj:app", broker="redis://:s3cret@host/0")


def parse(*line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    worker.configure(parser)
    return parser.parse_args(line)


def spec(*line: str, options: GlobalOptions = APP) -> BootSpec:
    return worker.specification(parse(*line), options)


def test_nothing_given_sets_nothing() -> None:
    made = spec()
    assert made.settings == {}
    assert (made.app, made.pool, made.loglevel, made.banner) == ("proj:app", "prefork", "WARNING", True)
    assert made.no_effect == []


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (["-c", "3"], "worker_concurrency", 3),
        (["--concurrency=8"], "worker_concurrency", 8),
        (["--time-limit", "30"], "task_time_limit", 30.0),
        (["--time-limit", "0"], "task_time_limit", 0.0),
        (["--soft-time-limit", "2.5"], "task_soft_time_limit", 2.5),
        (["--max-tasks-per-child", "100"], "worker_max_tasks_per_child", 100),
        (["--max-memory-per-child", "200000"], "worker_max_memory_per_child", 200000),
        (["--prefetch-multiplier", "0"], "worker_prefetch_multiplier", 0),
        (["-E"], "worker_send_task_events", True),
        (["-Q", "high=5,low=1,rest"], "worker_queue_weights", {"high": 5, "low": 1}),
        (["worker.lease=5"], "worker_lease", "5"),
    ],
)
def test_an_option_becomes_the_setting_of_that_name(line: list[str], key: str, value: Any) -> None:
    assert spec(*line).settings == {key: value}


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        (["-Q", "a,b", "-Q", "c"], "queues", ["a", "b", "c"]),
        (["-X", "low"], "exclude_queues", ["low"]),
        (["-I", "one, two"], "include", ["one", "two"]),
        (["-n", "w1@%h"], "hostname", "w1@%h"),
        (["-l", "debug"], "loglevel", "DEBUG"),
        (["-l", "fatal"], "loglevel", "CRITICAL"),
        (["-f", "w.log"], "logfile", "w.log"),
        (["--pidfile", "w.pid"], "pidfile", "w.pid"),
        (["-S", "state"], "statedb", "state"),
        (["--without-mingle"], "without_mingle", True),
        (["-P", "solo"], "pool", "solo"),
        (["-P", "processes"], "pool", "prefork"),
        (["--autoscale", "8,2"], "autoscale", [8, 2]),
        (["--autoscale", "8"], "autoscale", [8, 1]),
        (["--autoscale", "8,0"], "autoscale", [8, 1]),
        (["-E"], "task_events", True),
    ],
)
def test_an_option_becomes_a_field_of_the_specification(line: list[str], field: str, value: Any) -> None:
    assert getattr(spec(*line), field) == value


def test_global_options_reach_the_worker() -> None:
    made = spec(options=GlobalOptions(app="p", broker="memory://x", result_backend="memory://y", quiet=True))
    assert made.settings == {"broker_url": "memory://x", "result_backend": "memory://y"}
    assert (made.workdir, made.sys_path, made.banner) == (os.getcwd(), [os.getcwd()], False)


def test_options_of_celery_without_an_effect_are_accepted_and_listed_once() -> None:
    line = [
        *("-O", "fair", "--disable-prefetch", "--pool-start-method", "fork", "--without-gossip"),
        *("--without-mingle", "--without-heartbeat", "--heartbeat-interval", "2", "-B", "-s", "x"),
        *("--scheduler", "s", "--executable", "python"),
    ]
    assert sorted(spec(*line).no_effect) == sorted(WITHOUT_EFFECT)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["-c", "0"], "--concurrency 0"),
        (["-c", "many"], "--concurrency many"),
        (["-P", "gevent"], "--pool gevent"),
        (["-l", "loud"], "--loglevel loud"),
        (["--autoscale", "2,8"], "--autoscale 2,8"),
        (["--autoscale", "a,b"], "--autoscale a,b"),
        (["--autoscale", "1,2,3"], "--autoscale 1,2,3"),
        (["stray"], "'stray'"),
        (["=x"], "'=x'"),
        (["nodot=1"], "'nodot=1'"),
        (["-f", "%q.log"], "there is no %q"),
    ],
)
def test_a_wrong_value_is_refused_by_name(line: list[str], says: str) -> None:
    with pytest.raises(CommandError, match="^.+$") as refused:
        spec(*line)
    assert says in str(refused.value)
    assert refused.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    "line",
    [
        ["--time-limit", "nan"],
        ["--time-limit", "-1"],
        ["--max-tasks-per-child", "0"],
        ["--max-memory-per-child", "x"],
    ],
)
def test_a_number_out_of_range_is_a_usage_error(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*line)
    assert ended.value.code == ExitCode.USAGE
    assert line[0] in capsys.readouterr().err


def test_without_an_application_the_remedy_is_named() -> None:
    with pytest.raises(CommandError, match="-A MODULE") as refused:
        spec(options=GlobalOptions())
    assert refused.value.code == ExitCode.USAGE


def test_an_interpreter_that_cannot_be_started_is_a_boot_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: BootSpec) -> None:
        raise OSError("no more memory")

    monkeypatch.setattr(worker, "exec_supervisor", fail)
    with pytest.raises(CommandError, match="no more memory") as refused:
        worker.run(parse(), APP)
    assert refused.value.code == ExitCode.BOOT_FAILED


@pytest.mark.parametrize(
    ("line", "options", "words", "piped"),
    [
        (["--purge"], APP, ["purge", "--force"], "\n"),
        (["--discard", "-Q", "a,b", "-X", "b"], APP, ["purge", "--force", "-Q", "a,b", "-X", "b"], "\n"),
        (["--purge"], SECRET, ["purge", "--force", "-b", "-"], "redis://:s3cret@host/0\n"),
    ],
)
def test_purging_is_done_before_and_by_another_process(
    monkeypatch: pytest.MonkeyPatch, line: list[str], options: GlobalOptions, words: list[str], piped: str
) -> None:
    ran: list[list[str]] = []

    def record(
        command: list[str], *, check: bool, input: str, text: bool
    ) -> subprocess.CompletedProcess[bytes]:
        assert (input, text) == (piped, True)
        ran.append(command)
        return subprocess.CompletedProcess(command, 69)

    monkeypatch.setattr(worker.subprocess, "run", record)
    monkeypatch.setattr(worker, "exec_supervisor", lambda _: pytest.fail("started all the same"))
    with pytest.raises(CommandError, match="nothing was started") as refused:
        worker.run(parse(*line), options)
    assert refused.value.code == ExitCode.UNAVAILABLE
    assert ran == [[sys.executable, "-m", "prefork.engine", "-A", "proj:app", *words]]


@given(st.text())
def test_any_text_for_autoscale_is_understood_or_refused(text: str) -> None:
    try:
        made = worker.specification(parse(f"--autoscale={text}"), APP)
    except CommandError as refused:
        assert refused.code == ExitCode.USAGE
    else:
        assert made.autoscale is not None
        maximum, minimum = made.autoscale
        assert maximum >= minimum >= 1


def test_weights_are_no_part_of_the_names_of_queues() -> None:
    assert spec("-Q", "high=5,low=1", "-Q", "rest").queues == ["high", "low", "rest"]
    assert spec("-Q", "a=b,=3,c=").queues == ["a=b", "=3", "c="]


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(CommandError, match="weight 0"):
        spec("-Q", "high=0")
