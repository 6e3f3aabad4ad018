"""`prefork worker` as operators start it: real processes, the command line in front."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prefork.engine.cli.failures import ExitCode
from support.host import DEADLINE_S, Host, wait_until


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "line",
    [
        ["-A", "shop", "worker", "-c", "1", "-l", "info"],
        ["worker", "-c", "1", "-l", "info", "-A", "shop:app"],
        ["worker", "--app=shop.app", "--concurrency=1", "--loglevel=INFO"],
    ],
)
def test_a_worker_runs_what_is_sent_and_stops_when_told(host: Host, line: list[str]) -> None:
    worker = host.start(*line)
    called = host.run("-A", "shop", "call", "shop.add", "-a", "[2, 3]", "--wait", "--timeout", "20")
    assert (called.returncode, called.stdout) == (0, "5\n"), called.stderr + host.log()
    # A child serves as soon as the lease is taken; the agent has more to do until it is ready.
    host.wait_for_log("is ready")
    health = host.run("health")
    assert health.returncode == 0, health.stdout + health.stderr + host.log()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_S) == ExitCode.OK
    shown = host.log()
    assert "shop.add" in shown and "concurrency: 1" in shown
    assert "Traceback" not in shown
    assert host.run("health").returncode == ExitCode.FAILED


def test_a_worker_stops_at_an_option_of_a_task_that_cannot_be_honoured_and_names_it(host: Host) -> None:
    host.write(
        "wrong.py",
        """
        from prefork.engine import App
        app = App("wrong", broker="memory://")
        @app.task(autoretry_for=ValueError)
        def fragile():
            raise ValueError("the cause")
        """,
    )
    worker = host.start("-A", "wrong", "worker", "-c", "1")
    assert worker.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "autoretry_for of task 'wrong.fragile'" in host.log()
    assert "autoretry_for=(ValueError,)" in host.log()


def test_the_supervisor_is_the_process_that_was_started(host: Host) -> None:
    worker = host.start("-A", "shop", "worker", "-c", "1", "-l", "info")
    host.wait_for_log("ready")
    assert "supervisor" in " ".join(psutil.Process(worker.pid).cmdline())


def test_a_worker_serves_the_queues_it_was_given(host: Host) -> None:
    host.start("-A", "shop", "worker", "-c", "1", "-Q", "fast,other", "-l", "info")
    host.wait_for_log("ready")
    fast = host.run("-A", "shop", "call", "shop.add", "-a", "[1, 1]", "--queue", "fast", "--wait")
    assert fast.stdout == "2\n"
    slow = host.run("-A", "shop", "call", "shop.add", "-a", "[1, 1]", "--wait", "--timeout", "0.5")
    assert slow.returncode == ExitCode.NOT_READY


def test_a_limit_of_the_command_line_holds(host: Host) -> None:
    host.start("-A", "shop", "worker", "-c", "1", "--time-limit", "0.5", "-l", "info")
    called = host.run("-A", "shop", "call", "shop.nap", "-a", "[60]", "--wait", "--timeout", "20")
    assert called.returncode == ExitCode.FAILED
    assert "TimeLimitExceeded" in called.stderr
    assert "hard time limit 0.5 s" in host.log()


def test_options_without_effect_are_listed_once(host: Host) -> None:
    host.start(
        "-A", "shop", "worker", "-c", "1", "-l", "info", "--without-gossip", "-O", "fair", "--skip-checks"
    )
    shown = host.wait_for_log("ready")
    assert [line for line in shown.splitlines() if "--without-gossip" in line and "--skip-checks" in line]
    assert shown.count("--without-gossip") == 1


def test_log_file_pid_file_and_node_name_are_as_told(host: Host) -> None:
    worker = host.start(
        *("-A", "shop", "worker", "-c", "1", "-l", "info", "-q"),
        *("-n", "till@%h", "-f", "%n.log", "--pidfile", "till.pid"),
    )
    host.wait_for_log("ready", "till.log")
    assert host.log("till.pid").strip() == str(worker.pid)
    assert host.run("health", "-n", "till@*").returncode == 0
    worker.send_signal(signal.SIGTERM)
    worker.wait(DEADLINE_S)
    assert not (host.root / "till.pid").exists()


def test_a_detached_worker_leaves_the_terminal(host: Host) -> None:
    done = host.run(
        *("-A", "shop", "worker", "-c", "1", "-D", "-l", "info", "-f", "worker.log", "--pidfile", "w.pid")
    )
    assert (done.returncode, done.stdout) == (0, "")
    host.wait_for_log("ready")
    pid = int(host.log("w.pid"))
    host.detached.append(pid)
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not _runs(pid), lambda: f"{pid} still runs\n{host.log()}")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_purge_drops_what_waits_before_the_worker_starts(host: Host) -> None:
    host.run("-A", "shop", "call", "shop.add", "-a", "[1, 1]", "--task-id", "old")
    host.start("-A", "shop", "worker", "-c", "1", "--purge", "-l", "info")
    host.wait_for_log("ready")
    assert host.run("-A", "shop", "call", "shop.add", "-a", "[1, 2]", "--wait").stdout == "3\n"
    assert host.run("-A", "shop", "result", "old").returncode == ExitCode.NOT_READY


def _holders_of(secret: str) -> set[int]:
    """The processes whose arguments, as ``ps`` shows them, contain a text."""
    found = set()
    for process in psutil.process_iter():
        try:
            if secret in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("line", "started"),
    [(["-P", "solo"], "solo, app"), (["-c", "1"], "is ready"), (["-c", "1", "--purge"], "is ready")],
)
def test_no_url_stays_in_the_process_list(host: Host, line: list[str], started: str) -> None:
    secret = f"s3cret-{uuid.uuid4().hex}"  # whoever else runs these tests has another
    url = f"filesystem://{host.root}/{secret}"
    worker = host.start("-A", "shop", "-b", url, "--result-backend", url, "worker", "-l", "info", *line)
    seen: set[int] = set()

    def is_ready() -> bool:
        seen.update(_holders_of(secret))
        return started in host.log()

    wait_until(is_ready, lambda: host.log())
    assert seen <= {worker.pid}, "no other process was ever given it"
    assert _holders_of(secret) == set()
    called = host.run(
        "-A", "shop", "-b", url, "--result-backend", url, "call", "shop.add", "-a", "[1, 2]", "--wait"
    )
    assert called.stdout == "3\n", called.stderr + host.log()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_S) == ExitCode.OK


def test_a_url_may_come_through_standard_input(host: Host) -> None:
    url = f"filesystem://{host.root}/s3cret"
    called = subprocess.run(
        host.command("-A", "shop", "-b", "-", "call", "shop.add", "-a", "[1, 2]"),
        cwd=host.root,
        env=host._environment,
        input=f"{url}\n",
        text=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert called.returncode == 0, called.stderr
    assert "celery" in host.run("-b", url, "queues").stdout
    refused = host.run("-A", "shop", "-b", "-", "queues")
    assert refused.returncode == ExitCode.USAGE
    assert "--broker -: standard input has no URL" in refused.stderr


def test_a_worker_in_one_process_runs_tasks_too(host: Host) -> None:
    worker = host.start("-A", "shop", "worker", "-P", "solo", "-l", "info")
    called = host.run("-A", "shop", "call", "shop.nap", "-a", "[0]", "--wait", "--timeout", "20")
    assert called.returncode == 0, called.stderr + host.log()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_S) == ExitCode.OK


@pytest.mark.parametrize(
    ("source", "says", "code"),
    [
        ("import no_such_module_anywhere\n", "no_such_module_anywhere", ExitCode.BOOT_FAILED),
        ("app = 1\n", "broken", ExitCode.USAGE),
    ],
)
def test_a_worker_ends_with_one_code_for_an_application_that_fails_and_another_for_none(
    host: Host, source: str, says: str, code: ExitCode
) -> None:
    host.write("broken.py", source)
    worker = host.start("-A", "broken", "worker", "-c", "1")
    assert worker.wait(DEADLINE_S) == code
    assert says in host.log()


def test_a_configuration_that_is_wrong_ends_with_its_code_and_names_the_key(host: Host) -> None:
    host.write("prefork.toml", 'task_time_limitt = 3\nworker_concurrency = "many"\n')
    worker = host.start("-A", "shop", "worker")
    assert worker.wait(DEADLINE_S) == ExitCode.CONFIG
    assert "task_time_limitt" in host.log() and "worker_concurrency" in host.log()


def test_a_working_directory_and_configuration_given_on_the_line_are_used(host: Host) -> None:
    (host.root / "elsewhere").mkdir()
    (host.root / "shop.py").rename(host.root / "elsewhere" / "shop.py")
    host.write("elsewhere/my.toml", "worker_concurrency = 1\n")
    host.start("--workdir", "elsewhere", "--config", "my.toml", "-A", "shop", "worker", "-l", "info")
    assert "concurrency: 1" in host.wait_for_log("ready")
