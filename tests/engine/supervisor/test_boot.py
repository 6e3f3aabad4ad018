"""What cannot start is not started for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from prefork.engine.boot import BootSpec, supervisor_command, write_spec
from support.supervised import Supervised, eventually

Supervise = Callable[..., Supervised]


def test_an_application_that_cannot_be_loaded_stops_the_worker_with_its_traceback(worker: Supervised) -> None:
    worker.set("template-fails")
    worker.start(ready=False)
    assert worker.wait() == 3
    assert "Traceback: no such application" in worker.log
    assert len(worker.events("template")) == 1
    worker.gone()


def test_a_template_that_dies_while_it_loads_stops_the_worker(worker: Supervised) -> None:
    worker.set("template-dies")
    worker.start(ready=False)
    assert worker.wait() == 3
    assert "died while it loaded the application" in worker.log


def test_an_import_that_never_ends_is_not_waited_for_for_ever(supervise: Supervise) -> None:
    worker = supervise(boot_timeout_s=0.5)
    worker.set("template-hangs")
    worker.start(ready=False)
    worker.event("template")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_children_that_cannot_boot_stop_the_worker_after_some_tries(supervise: Supervise) -> None:
    worker = supervise(concurrency=2, max_boot_failures=3)
    worker.set("child-fails")
    worker.start(ready=False)
    assert worker.wait() == 3
    assert "children in a row could not boot" in worker.log
    assert worker.log.count("Traceback: init hook raised") >= 1
    assert 3 <= len(worker.events("dead", verdict="boot")) + worker.log.count("exit code 3") < 12
    worker.gone()


def test_a_child_that_hangs_while_it_boots_is_killed_and_counted(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, boot_timeout_s=0.3, max_boot_failures=2)
    worker.set("child-hangs")
    worker.start(ready=False)
    assert worker.wait() == 3
    assert "was not ready within 0.3 s" in worker.log


def test_a_worker_with_living_children_goes_on_when_new_ones_cannot_boot(supervise: Supervise) -> None:
    worker = supervise(concurrency=2, max_boot_failures=2).start()
    eventually(lambda: len([c for c in worker.ask("stats")["children"] if c["phase"] == "ready"]) == 2)
    worker.set("child-fails")
    os.kill(worker.ask("stats")["children"][0]["pid"], signal.SIGKILL)
    eventually(lambda: len(worker.events("dead", verdict="boot")) >= 3)
    worker.event("end", job=worker.job({"do": "sleep"}))
    worker.unset("child-fails")
    eventually(lambda: len([c for c in worker.ask("stats")["children"] if c["phase"] == "ready"]) == 2)


def test_children_that_wait_for_successors_that_cannot_boot_do_not_count_as_serving(
    supervise: Supervise,
) -> None:
    # Given a worker whose only child has done its number of tasks
    worker = supervise(concurrency=1, max_tasks=1, max_boot_failures=4).start()
    worker.set("child-fails")
    worker.event("end", job=worker.job({"do": "sleep"}))
    # When no successor can boot
    eventually(lambda: "their successors cannot boot" in str(worker.ask("health")["reasons"]))
    # Then it does not stay there without taking anything
    assert worker.wait() == 3
    assert "4 children in a row could not boot" in worker.log


def test_forks_that_fail_are_tried_again(worker: Supervised) -> None:
    worker.start()
    eventually(lambda: len([c for c in worker.ask("stats")["children"] if c["phase"] == "ready"]) == 2)
    worker.set("fork-fails")
    os.kill(worker.ask("stats")["children"][0]["pid"], signal.SIGKILL)
    eventually(lambda: "cannot fork a child: told to" in worker.log)
    worker.event("end", job=worker.job({"do": "sleep"}))
    worker.unset("fork-fails")
    eventually(lambda: len([c for c in worker.ask("stats")["children"] if c["phase"] == "ready"]) == 2)


def test_an_agent_that_dies_at_once_is_started_with_a_back_off(worker: Supervised) -> None:
    worker.set("agent-dies")
    worker.start(ready=False)
    eventually(lambda: worker.log.count("the agent died (status 7)") >= 3)
    assert worker.log.count("the agent died") < 10
    assert worker.ask("health")["reasons"]
    worker.unset("agent-dies")
    eventually(lambda: worker.ask("health")["ready"])


def test_too_many_children_are_refused(supervise: Supervise) -> None:
    worker = supervise(concurrency=600)
    worker.start(ready=False)
    assert worker.wait() == 3
    assert "600 children: a worker can have 1 to 510" in worker.log


def test_the_pid_file_is_for_one_worker(supervise: Supervise, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("4194000\n")  # of a worker that is gone
    first = supervise({"pidfile": str(path)}).start()
    assert int(path.read_text()) == first.pid
    second = supervise({"pidfile": str(path)})
    second.start(ready=False)
    assert second.wait() == 1
    assert f"the worker with pid {first.pid} has it" in second.log
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_stops_the_start(supervise: Supervise, tmp_path: Path) -> None:
    worker = supervise({"pidfile": str(tmp_path / "no" / "pid")})
    worker.start(ready=False)
    assert worker.wait() == 1
    assert "cannot be opened" in worker.log


def test_a_closed_standard_output_and_error_do_no_harm(worker: Supervised) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    worker.process = subprocess.Popen(
        [sys.executable, "-m", "support.fake_worker", str(worker.directory / "spec")],
        env=worker.environ,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
        cwd=worker.directory,
    )
    os.close(writing)
    worker.event("end", job=worker.job({"do": "sleep"}))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_pid_file_may_bear_the_name_of_the_node(supervise: Supervise, tmp_path: Path) -> None:
    worker = supervise({"pidfile": str(tmp_path / "%n.pid")}).start()
    assert (tmp_path / "w.pid").read_text() == f"{worker.pid}\n"


def test_a_log_file_that_cannot_be_opened_is_said_without_a_traceback(tmp_path: Path) -> None:
    spec = BootSpec(app="nowhere", logfile=str(tmp_path / "missing" / "log"))
    code, errors = _supervise(spec)
    assert code == 3
    assert errors.startswith("prefork: the worker cannot start: ")
    assert str(tmp_path / "missing" / "log") in errors
    assert "Traceback" not in errors


def test_a_variable_that_means_nothing_is_said_without_a_traceback() -> None:
    code, errors = _supervise(BootSpec(app="nowhere"), REMAP_SIGTERM="SIGNONSENSE")
    assert code == 3
    assert "REMAP_SIGTERM='SIGNONSENSE' is no signal" in errors
    assert "Traceback" not in errors


def test_a_password_in_a_line_of_source_does_not_get_into_the_log(tmp_path: Path) -> None:
    source = "int('no such option') or 'redis://user:s3cret@host/0'\n"
    (tmp_path / "leaky.py").write_text(source)
    code, errors = _supervise(BootSpec(app="leaky", workdir=str(tmp_path)))
    assert code == 3
    assert "no such option" in errors
    assert "redis://" in errors
    assert "s3cret" not in errors


def _supervise(spec: BootSpec, **environ: str) -> tuple[int, str]:
    fd = write_spec(spec)
    ended = subprocess.run(
        supervisor_command(fd),
        pass_fds=(fd,),
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=20,
    )
    os.close(fd)
    return ended.returncode, ended.stderr
