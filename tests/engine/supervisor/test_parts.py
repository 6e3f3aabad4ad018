"""Parts of the supervisor by themselves: what real workers reach only with luck."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefork.engine import log_lines, orphans
from prefork.engine.boot import BootSpec
from prefork.engine.clock import mono_s
from prefork.engine.log_formats import LineFormatter
from prefork.engine.log_lines import LineHandler, pieces
from prefork.engine.scoreboard import C_EXECUTIONS, C_RUNNING, C_STATE, S_PID, Scoreboard, State
from prefork.engine.supervisor import banner, pool, reaper
from prefork.engine.supervisor.agent_keeper import AgentKeeper
from prefork.engine.supervisor.children import Child, Phase
from prefork.engine.supervisor.context import Context
from prefork.engine.supervisor.deadlines import look
from prefork.engine.supervisor.deaths import LEFT_AS_TOLD, Exit, reap
from prefork.engine.supervisor.killing import UNKILLABLE_S, Doom, is_stopped, kill_group, send_signal
from prefork.engine.supervisor.node_log import make_logger, reformat
from prefork.engine.supervisor.notify import HostNotifier, ServiceManager
from prefork.engine.supervisor.options import worker_options
from prefork.engine.supervisor.pidfile import Pidfile, PidfileError
from prefork.engine.supervisor.poller import Kind, Poller, Source
from prefork.engine.supervisor.pool import LEAVE_GRACE_S, Pool
from prefork.engine.supervisor.signals import SignalInbox
from prefork.engine.supervisor.spawn import Entries, fork_entry
from prefork.engine.supervisor.tally import Tally
from prefork.engine.supervisor.template_keeper import TemplateKeeper
from support.forked import in_child
from support.waiting import eventually

DOOM = Doom("timeout", "hard time limit 1 s", True, 1.0)


# --- children, without a template ------------------------------------------------------------------


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Bench:
    """A pool whose children are plain ``sleep`` processes."""

    def __init__(self) -> None:
        self.log = Records()
        logger = logging.Logger("bench")
        logger.addHandler(self.log)
        self.context = Context(
            spec=BootSpec(app="a"),
            entries=Entries(),
            scoreboard=Scoreboard(),
            poller=Poller(),
            log=logger,
            node="w@test",
            worker_id="w-1",
            doorbell_fd=-1,
            own_pidfd=-1,
        )
        self.templates = TemplateKeeper(self.context)
        self.agent = AgentKeeper(self.context, self.templates, lambda: 0.5)
        self.asked: list[dict[str, Any]] = []
        self.pool = Pool(self.context, self.templates, self.agent, lambda: 0.5)
        self.processes: list[subprocess.Popen[bytes]] = []

    def child(self) -> Child:
        child = self.pool.table.allocate(0, 0.0)
        assert child is not None
        process = subprocess.Popen(["sleep", "60"])
        self.processes.append(process)
        self.pool.forked(child, process.pid, 0.0)
        child.slot.words[C_STATE] = State.IDLE
        self.pool.watch(1.0)
        assert child.phase is Phase.READY
        return child

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench()
    monkeypatch.setattr(made.agent, "request", made.asked.append)
    yield made
    made.close()


def _buried(bench: Bench, child: Child, now_s: float) -> bool:
    bench.pool.reaper.bury(child, now_s)
    return not bench.pool.table.owns(child)


def test_a_child_that_cannot_be_killed_counts_as_dead_and_is_still_watched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = bench.child()
    pid = child.pid
    monkeypatch.setattr(pool, "kill_group", lambda *_: None)
    bench.pool.kill(child, DOOM, 10.0)
    bench.pool.watch(10.0 + UNKILLABLE_S)
    assert bench.asked == []
    bench.pool.watch(10.1 + UNKILLABLE_S)
    assert child.phase is Phase.STUCK
    assert not child.wanted
    assert [(m["op"], m["verdict"], m["owner"]) for m in bench.asked] == [("dead", "timeout", "w-1.0.1")]
    assert "cannot be killed" in bench.log.texts[-1]
    assert child.slot.words[S_PID] == pid  # whoever clears up after us must still find it
    assert bench.pool.table.recovered(0, 1)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _buried(bench, child, 20.0))
    assert len(bench.asked) == 1
    assert bench.pool.table.unrecovered == 0
    again = bench.pool.table.allocate(0, 21.0)
    assert again is not None
    assert (again.index, again.generation) == (0, 2)


def test_a_slot_is_not_given_away_before_its_messages_are_free(bench: Bench) -> None:
    child = bench.child()
    bench.pool.kill(child, DOOM, 10.0)
    eventually(lambda: _buried(bench, child, 10.0))
    other = bench.pool.table.allocate(0, 11.0)
    assert other is not None
    assert other.index == 1
    assert not bench.pool.table.recovered(0, 7)
    assert bench.pool.table.recovered(0, 1)
    third = bench.pool.table.allocate(0, 12.0)
    assert third is not None
    assert (third.index, third.generation) == (0, 2)


def test_there_is_an_end_to_slots(bench: Bench) -> None:
    for _ in range(1024):
        assert bench.pool.table.allocate(0, 0.0) is not None
    assert bench.pool.table.allocate(0, 0.0) is None
    assert len(bench.pool.table) == 1024


def test_a_child_that_does_not_leave_is_killed_but_not_while_it_runs_a_task(bench: Bench) -> None:
    child = bench.child()
    bench.pool.tell_to_leave(child, 10.0)
    bench.pool.tell_to_leave(child, 10.5)
    child.slot.words[C_RUNNING] = 1
    bench.pool.watch(10.0 + 5 * LEAVE_GRACE_S)
    assert child.phase is Phase.READY
    child.slot.words[C_RUNNING] = 0
    bench.pool.watch(10.1 + 6 * LEAVE_GRACE_S)
    assert child.phase is Phase.KILLED
    eventually(lambda: _buried(bench, child, 100.0))
    assert (bench.asked[0]["verdict"], bench.asked[0]["charge"]) == ("crash", False)


def test_a_child_that_cannot_be_watched_is_killed_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a supervisor without a free descriptor
    child = bench.pool.table.allocate(0, 0.0)
    assert child is not None
    process = subprocess.Popen(["sleep", "60"])
    bench.processes.append(process)

    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    # When the template reports its pid
    bench.pool.forked(child, process.pid, 0.0)
    # Then the process does not go on unwatched, and its slot is free
    assert process.wait(5.0) == -signal.SIGKILL
    assert list(bench.pool.table) == []
    assert child.slot.words[S_PID] == 0
    assert "cannot fork a child: it cannot be watched (Too many open files)" in bench.log.texts[0]


def test_who_leaves_as_told_is_said_once_with_the_reason(bench: Bench) -> None:
    child = bench.child()
    child.retiring = "has done its number of tasks"
    child.slot.words[C_EXECUTIONS] = 7
    bench.pool.tell_to_leave(child, 1.0)
    bench.pool.reaper._log_leave(child, Doom("exit", LEFT_AS_TOLD, charge=False))
    bench.pool.reaper._log_leave(child, Doom("exit", "what it held was taken over", charge=False))
    assert bench.log.texts == [
        f"child {child.index} was replaced after 7 executions: it has done its number of tasks",
        f"child {child.index} was replaced after 7 executions: what it held was taken over",
    ]


def test_many_deaths_at_once_cost_one_look_at_all_processes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given children that die together, one of them with a program of its own in another session
    children = [bench.child() for _ in range(5)]
    mark = orphans.mark(os.getpid(), children[0].index, children[0].generation)
    left = subprocess.Popen(["sleep", "60"], env={orphans.MARK: mark}, start_new_session=True)
    bench.processes.append(left)
    looks = []
    every = orphans.process_ids
    monkeypatch.setattr(orphans, "process_ids", lambda: looks.append(1) or every())
    for child in children:
        bench.pool.kill(child, DOOM, 1.0)
    # When they are buried
    for child in children:
        eventually(lambda child=child: _buried(bench, child, 2.0))
    monkeypatch.setattr(bench.pool.strangers, "kill_left_behind", lambda known: 0)
    bench.pool.mind_strangers(note=False, reap=False)
    # Then the program is gone, too, and was looked for once
    assert left.wait(5.0) == -signal.SIGKILL
    assert len(looks) == 1
    assert f"child {children[0].index} left 1 sub-process(es) behind; killed" in bench.log.texts


@given(st.binary(max_size=40))
@example(b"1." + b"9" * 5000)
def test_a_mark_is_read_whatever_somebody_made_of_it(data: bytes) -> None:
    slot, generation = orphans._child_of(data)
    assert (slot, generation) == (-1, -1) or min(slot, generation) >= 0


def test_burying_a_living_child_does_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    child = bench.child()
    monkeypatch.setattr(reaper, "kill_group", lambda *_: None)
    bench.pool.reaper.bury(child, 2.0)
    assert bench.pool.table.owns(child)
    assert child.slot.words[S_PID] == child.pid


def test_a_slot_whose_execution_changes_under_the_reader_runs_nothing_for_long() -> None:
    class Changing:
        """Words of which one is another at every look."""

        def __init__(self) -> None:
            self.count = 0

        def __getitem__(self, word: int) -> int:
            if word == C_RUNNING:
                self.count += 1
                return self.count
            return 7

    slot = type("Slot", (), {"words": Changing()})()
    assert look(slot).running == 0


def test_the_tally_keeps_a_bounded_number_of_causes() -> None:
    tally = Tally()
    for number in range(300):
        tally.died(Doom("memory", f"memory limit 1 MiB: was {number} MiB", True))
    tally.died(Doom("exit", "left as told", False))
    assert len(tally.causes) <= 101
    assert sum(tally.causes.values()) == 300
    assert tally.deaths == {"memory": 300, "exit": 1}


# --- processes -------------------------------------------------------------------------------------


def test_killing_and_signalling_who_has_gone_is_no_error() -> None:
    process = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    kill_group(process.pid, pidfd)
    assert not send_signal(pidfd, signal.SIGTERM)
    assert not is_stopped(process.pid, pidfd)
    assert reap(pidfd) == Exit(-1, None)
    os.close(pidfd)


def test_a_stop_is_confirmed_and_can_be_asked_for_twice() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfd = os.pidfd_open(process.pid)
        assert not is_stopped(process.pid, pidfd)
        send_signal(pidfd, signal.SIGSTOP)
        eventually(lambda: is_stopped(process.pid, pidfd))
        assert is_stopped(process.pid, pidfd)
        send_signal(pidfd, signal.SIGCONT)
        eventually(lambda: not is_stopped(process.pid, pidfd))
        os.close(pidfd)
        process.kill()


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("os:getpid", 0),
        ("no.such.module:main", 3),
        ("os:no_such_function", 3),
        ("sys:exit", 1),
        ("os:_exit", 1),
    ],
)
def test_an_entry_ends_its_process_whatever_it_does(entry: str, code: int) -> None:
    def fork() -> None:
        arguments = ("text",) if entry == "sys:exit" else (1,) if entry == "os:_exit" else ()
        pid = fork_entry(entry, arguments, ())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code

    in_child(fork)


def test_a_service_manager_that_interrupts_everybody_gets_no_traceback_of_an_import(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fork() -> None:
        pid = fork_entry("signal:raise_signal", (signal.SIGINT,), ())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    in_child(fork)
    assert "Traceback" not in capfd.readouterr().err


def test_an_entry_has_no_descriptors_but_those_it_is_given_and_default_signals(tmp_path: Path) -> None:
    report = tmp_path / "report"
    program = (
        "import os,signal,json;"
        f"json.dump([sorted(map(int,os.listdir('/proc/self/fd'))),len(signal.pthread_sigmask(0,[])),"
        f"signal.getsignal(signal.SIGTERM)==signal.SIG_DFL,os.getpgrp()==os.getpid()],open({str(report)!r},'w'))"
    )

    def fork() -> None:
        SignalInbox({}).install()
        kept, _ = os.pipe()
        pid = fork_entry("builtins:exec", (program,), (kept,))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        descriptors, masked, default, leader = json.loads(report.read_text())
        assert kept in descriptors
        assert len(descriptors) == 5  # 0, 1, 2, the kept one and the listing itself
        assert (masked, default, leader) == (0, True, True)

    in_child(fork)


def test_signals_are_kept_in_order_and_children_count_once() -> None:
    def check() -> None:
        inbox = SignalInbox({signal.SIGTERM: signal.SIGQUIT})
        inbox.install()
        assert inbox.drain() == []
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert inbox.drain() == [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD]
        for _ in range(100_000):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert set(inbox.drain()) == {signal.SIGUSR2}

    in_child(check)


def test_a_signal_after_the_end_does_not_change_the_exit_code() -> None:
    def check() -> None:
        inbox = SignalInbox({})
        inbox.install()
        inbox.mute()
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
            # As the interpreter does when it ends.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        assert inbox.drain() == []

    in_child(check)


# --- whom it tells ---------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@prefork-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if abstract else name)
        end.settimeout(5.0)
        manager = ServiceManager(
            {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
        )
        manager.ready()
        manager.keep_alive(100.0)
        manager.keep_alive(100.4)
        manager.keep_alive(100.5)
        manager.stopping()
        said = [end.recv(100).decode() for _ in range(4)]
        assert said == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
        assert manager.unheard == 0


@pytest.mark.parametrize("environ", [{"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {}])
def test_a_watchdog_that_is_not_ours_is_not_fed(tmp_path: Path, environ: dict[str, str]) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone"), **environ})
    manager.keep_alive(100.0)
    assert manager.unheard == 0
    manager.ready()
    assert manager.unheard == 1


def test_the_host_is_told_once() -> None:
    reading, writing = os.pipe()
    host = HostNotifier(writing)
    host.failed("x" * 100_000 + "the end")
    host.ready("w@test", "/path")
    message = json.loads(os.read(reading, 65536))
    assert message["ready"] is False
    assert message["reason"].endswith("the end")
    os.close(reading)
    os.close(writing)
    HostNotifier(None).ready("w@test", "")


@pytest.mark.parametrize("character", ["\x01", "\U0001f980", "\udc80", "\u6f22"])
def test_a_long_reason_in_any_script_reaches_the_host_whole(character: str) -> None:
    reading, writing = os.pipe()
    HostNotifier(writing).failed(character * 50_000 + "the end")
    message = json.loads(os.read(reading, 65536))
    assert message["reason"].endswith(character + "the end")
    os.close(reading)
    os.close(writing)


def test_a_host_that_reads_no_more_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    HostNotifier(writing).ready("w@test", "")
    assert not os.get_blocking(writing)
    os.close(writing)


def test_a_pid_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "pid").symlink_to(tmp_path / "target")
    with pytest.raises(PidfileError, match="cannot be opened"):
        Pidfile(str(tmp_path / "pid")).take()
    assert (tmp_path / "target").read_text() == "precious"


def test_a_pid_file_that_somebody_removed_is_no_error(tmp_path: Path) -> None:
    pidfile = Pidfile(str(tmp_path / "pid"))
    pidfile.release()
    pidfile.take()
    (tmp_path / "pid").unlink()
    pidfile.release()
    assert not (tmp_path / "pid").exists()


def test_a_pid_file_that_its_holder_removes_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a holder that leaves between our opening of the file and our lock
    path = tmp_path / "pid"
    path.write_text("1\n")
    lock = fcntl.lockf

    def leave_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "lockf", lock)
        path.unlink()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "lockf", leave_first)
    pidfile = Pidfile(str(path))
    # When we take it
    pidfile.take()
    # Then what we hold is what others find
    assert path.read_text() == f"{os.getpid()}\n"
    assert pidfile.release() == ""
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    with pytest.raises(PidfileError, match="cannot be written"):
        Pidfile(str(tmp_path / "pid")).take()


def test_a_pid_file_that_cannot_be_removed_is_said_and_does_not_change_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pidfile = Pidfile(str(tmp_path / "pid"))
    pidfile.take()

    def refuse(_path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    assert "cannot be removed: Permission denied" in pidfile.release()
    assert pidfile.release() == ""


def test_the_banner_names_what_matters_and_cuts_what_is_long() -> None:
    options = worker_options(
        {
            "autoscale": [8, 2],
            "app": "shop",
            "broker": "redis://:**@host/0",
            "queues": ["b", "a"],
            "tasks": [f"t{n:03}" for n in range(50)],
            "no_effect": ["worker_pool"],
        }
    )
    text = banner.text("w@test", 7, options, ["--without-gossip"])
    assert text.startswith("prefork w@test (pid 7)\n")
    assert "2 to 8 (prefork)" in text
    assert "a, b\n" in text
    assert "and 10 more" in text
    assert "at least once" in text
    assert "no effect:   --without-gossip, worker_pool\n" in text
    assert "no effect" not in banner.text("w@test", 7, worker_options({}), [])


def test_the_log_takes_over_the_format_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = make_logger("INFO", str(path))
    logger.info("one")
    reformat(logger, {"format": "<%(message)s>"})
    logger.info("two")
    reformat(logger, {"format": "%(nonsense"})
    reformat(logger, {"json": True})
    logger.info("three")
    lines = path.read_text().splitlines()
    assert lines[0].endswith("one")
    assert lines[1] == "<two>"
    assert "is no format" in lines[2]
    assert json.loads(lines[3])["message"] == "three"


def test_the_end_of_a_long_traceback_reaches_a_pipe() -> None:
    reading, writing = os.pipe()
    handler = LineHandler(writing, blocking=False)
    handler.setFormatter(LineFormatter())
    text = "\n".join(f"line {number} " + "x" * 70 for number in range(200)) + "\nRuntimeError: the reason"
    handler.emit(logging.makeLogRecord({"msg": text, "levelno": logging.ERROR}))
    written = os.read(reading, 65536).decode()
    assert written.endswith("    RuntimeError: the reason\n")
    assert written.count("\n") == 201
    assert handler.dropped == 0
    os.close(reading)
    os.close(writing)


@given(st.binary(max_size=500), st.integers(1, 60))
def test_pieces_are_bounded_and_lose_nothing(data: bytes, limit: int) -> None:
    parts = pieces(data, limit)
    assert b"".join(parts) == data
    assert all(len(part) <= limit for part in parts)


def test_the_supervisor_follows_its_log_file_when_it_is_rotated_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    logger = make_logger("INFO", str(path))
    logger.info("one")
    path.rename(tmp_path / "log.1")
    monkeypatch.setattr(log_lines, "mono_s", lambda: mono_s() + 10.0)
    logger.info("two")
    assert "two" in path.read_text()
    assert "two" not in (tmp_path / "log.1").read_text()


def test_events_of_what_is_no_longer_watched_are_dropped() -> None:
    poller = Poller()
    reading, writing = os.pipe()
    poller.add(reading, Source(Kind.NOTIFY, "owner"))
    poller.add(writing, Source(Kind.HOST), select.EPOLLOUT)
    os.write(writing, b"x")
    assert {source.kind for source, _ in poller.wait(1.0)} == {Kind.NOTIFY, Kind.HOST}
    poller.remove_kind(Kind.HOST)
    poller.change(reading, select.EPOLLOUT)
    assert poller.wait(0.0) == []
    poller.remove(reading)
    poller.remove(reading)
    assert len(poller) == 0
    os.close(reading)
    os.close(writing)
