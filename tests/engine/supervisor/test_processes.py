"""Processes as the supervisor forks, stops, kills and signals them, and the signals that it gets itself."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from prefork.engine.supervisor.deaths import Exit, reap
from prefork.engine.supervisor.killing import is_stopped, kill_group, send_signal
from prefork.engine.supervisor.poller import Kind, Poller, Source
from prefork.engine.supervisor.signals import SignalInbox
from prefork.engine.supervisor.spawn import fork_entry
from support.forked import in_child
from support.waiting import eventually


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
