"""The Linux calls, on the kernel that runs the test."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from prefork.engine.linux import Futex, Linux, PollingFutex, private_kib, states_of_threads, threads_of
from prefork.engine.scoreboard import Scoreboard
from support.forked import in_child
from support.waiting import Background, eventually


def _futexes() -> list[Callable[[Scoreboard], Futex | PollingFutex]]:
    def native(board: Scoreboard) -> Futex | PollingFutex:
        return Linux().futex(board.buffer, board.slot(0).wake_address())

    def polling(board: Scoreboard) -> Futex | PollingFutex:
        return PollingFutex(board.buffer, board.slot(0).wake_address())

    return [native, polling]


@pytest.mark.parametrize("make", _futexes())
def test_a_sleeper_is_woken_from_another_process(make: Callable[[Scoreboard], Futex | PollingFutex]) -> None:
    board = Scoreboard()
    futex = make(board)
    seen = futex.value()
    begun_s = time.monotonic()
    waiting = Background(lambda: futex.wait(seen, 5.0))
    in_child(lambda: make(board).wake())
    waiting.result()
    assert time.monotonic() - begun_s < 4.0
    assert futex.value() != seen


@pytest.mark.parametrize("make", _futexes())
def test_a_wake_before_the_sleep_is_not_missed(make: Callable[[Scoreboard], Futex | PollingFutex]) -> None:
    futex = make(Scoreboard())
    seen = futex.value()
    futex.wake()
    begun_s = time.monotonic()
    futex.wait(seen, 5.0)
    assert time.monotonic() - begun_s < 1.0


@pytest.mark.parametrize("make", _futexes())
def test_a_sleep_ends_when_its_time_is_over(make: Callable[[Scoreboard], Futex | PollingFutex]) -> None:
    futex = make(Scoreboard())
    begun_s = time.monotonic()
    futex.wait(futex.value(), 0.05)
    assert 0.04 < time.monotonic() - begun_s < 2.0


def test_an_unknown_machine_gets_a_futex_that_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    board = Scoreboard()
    assert isinstance(Linux().futex(board.buffer, board.slot(0).wake_address()), PollingFutex)


def test_a_child_dies_with_its_parent_and_not_before() -> None:
    program = """
import os, signal, time
from prefork.engine.linux import Linux
parent = os.getpid()
pid = os.fork()
if pid == 0:
    Linux().die_with_parent(parent)
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert states_of_threads(child)
        parent.kill()
        parent.wait()
        eventually(lambda: set(states_of_threads(child)) <= {"Z"})


def test_a_child_whose_parent_has_gone_already_leaves() -> None:
    pid = os.fork()
    if pid == 0:
        Linux().die_with_parent(1 << 22)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_who_outlives_its_parent_is_not_killed() -> None:
    program = """
import os, time
from prefork.engine.linux import Linux
parent = os.getpid()
pid = os.fork()
if pid == 0:
    linux = Linux()
    linux.die_with_parent(parent)
    linux.outlive_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        # One that the kernel had killed would never sleep again.
        eventually(lambda: set(states_of_threads(child)) == {"S"})
        os.kill(child, signal.SIGKILL)


def test_an_orphan_becomes_the_child_of_the_subreaper() -> None:
    def adopt() -> None:
        Linux().become_subreaper()
        reading, writing = os.pipe()
        if os.fork() == 0:
            pid = os.fork()
            if pid:
                os.write(writing, str(pid).encode())
            os._exit(0)
        orphan = int(os.read(reading, 32))
        os.wait()
        assert os.waitpid(orphan, 0)[0] == orphan

    in_child(adopt)


def test_the_states_of_threads_tell_a_stopped_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert threads_of(process.pid) == [process.pid]
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: states_of_threads(process.pid) == ["T"])
        process.kill()
        process.wait()
        assert states_of_threads(process.pid) == []
        assert threads_of(process.pid) == []
        assert private_kib(process.pid) is None


def test_private_memory_counts_what_is_written_and_not_what_is_shared() -> None:
    reading, writing = os.pipe()
    shared = mmap.mmap(-1, 4096 * 8192)
    shared.write(b"s" * (4096 * 8192))
    pid = os.fork()
    if pid == 0:
        # A mapping of its own: what the allocator keeps of temporary objects would count as well.
        held = mmap.mmap(-1, 4096 * 4096)
        for page in range(4096):
            held[page * 4096] = 1
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    kib = private_kib(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)
    os.close(writing)
    assert kib is not None
    assert 16 * 1024 <= kib < 16 * 1024 + 12 * 1024
