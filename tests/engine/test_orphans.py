"""What is left of a worker whose supervisor died: real process groups, found and killed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.orphans import (
    MARK,
    _child_of,
    clear_up_after,
    descendants,
    kill_process_groups,
    mark,
    process_ids,
)
from prefork.engine.scoreboard import S_HIGH_SLOT, S_PID, S_SUPERVISOR_PID, SLOTS, Scoreboard
from support.forked import in_child
from support.waiting import readable

FAMILY = "sleep 60 & echo up; wait"
ALONE = "echo up; exec sleep 60"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a shell that leads a session of its own; all of it is gone afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def make(script: str = ALONE, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=dict(os.environ) | environment,
        )
        started.append(process)
        assert process.stdout is not None
        assert readable(process.stdout.fileno())
        assert os.read(process.stdout.fileno(), 100) == b"up\n"
        return process

    yield make
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def board() -> Scoreboard:
    made = Scoreboard()
    made.words[S_SUPERVISOR_PID] = supervisor_number()
    return made


def supervisor_number() -> int:
    """A supervisor that no process on this host can have been started by."""
    return 10**9 + uuid.uuid4().int % 10**9


def seat(board: Scoreboard, index: int, pid: int) -> None:
    board.slot(index).words[S_PID] = pid
    board.words[S_HIGH_SLOT] = max(board.words[S_HIGH_SLOT], index + 1)


def all_dead(process: subprocess.Popen[bytes]) -> bool:
    """Whether nobody holds the output any more: neither the process nor what it started."""
    assert process.stdout is not None
    return readable(process.stdout.fileno()) and os.read(process.stdout.fileno(), 1) == b""


def alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def test_the_groups_of_all_children_are_killed_with_everything_in_them(
    start: Start, board: Scoreboard
) -> None:
    first, second = start(FAMILY), start(FAMILY)
    seat(board, 0, first.pid)
    seat(board, 5, second.pid)
    assert kill_process_groups(board) == 2
    assert all_dead(first) and all_dead(second)


def test_what_a_dead_child_left_in_its_group_is_killed(start: Start, board: Scoreboard) -> None:
    child = start("sleep 60 & echo up")
    assert child.wait(10) == 0
    seat(board, 0, child.pid)
    assert kill_process_groups(board) == 1
    assert all_dead(child)


def test_a_group_that_is_gone_is_not_counted_and_stops_nothing(start: Start, board: Scoreboard) -> None:
    gone, present = start("echo up"), start()
    gone.wait(10)
    seat(board, 0, gone.pid)
    seat(board, 1, present.pid)
    assert kill_process_groups(board) == 1
    assert all_dead(present)


def test_slots_that_were_never_used_are_not_looked_at(start: Start, board: Scoreboard) -> None:
    stranger = start()
    seat(board, 3, stranger.pid)
    board.words[S_HIGH_SLOT] = 3
    assert kill_process_groups(board) == 0
    assert alive(stranger)


@pytest.mark.parametrize("pid", [0, 1])
def test_neither_our_own_group_nor_everybody_is_ever_killed(board: Scoreboard, pid: int) -> None:
    seat(board, 0, pid)
    assert kill_process_groups(board) == 0


def test_a_nonsensical_high_slot_is_survived(start: Start, board: Scoreboard) -> None:
    last = start()
    seat(board, SLOTS - 1, last.pid)
    board.words[S_HIGH_SLOT] = SLOTS * 1000
    assert kill_process_groups(board) == 1
    assert all_dead(last)


def test_a_daemon_that_left_its_group_is_known_by_its_mark_and_killed(
    start: Start, board: Scoreboard
) -> None:
    supervisor = board.words[S_SUPERVISOR_PID]
    daemon = start(**{MARK: mark(supervisor, 7, 12)})
    assert descendants(supervisor) == {daemon.pid: (7, 12)}
    assert kill_process_groups(board) == 0, "it is in no child's group"
    assert all_dead(daemon)


def test_descendants_of_another_supervisor_are_left_alone(start: Start, board: Scoreboard) -> None:
    supervisor = board.words[S_SUPERVISOR_PID]
    longer = start(**{MARK: mark(supervisor * 10, 0, 1)})
    mentioned = start(OTHER=f"{MARK}={mark(supervisor, 0, 1)}")
    assert descendants(supervisor) == {}
    kill_process_groups(board)
    assert alive(longer) and alive(mentioned)


def test_a_mark_that_was_tampered_with_still_tells_the_worker(start: Start) -> None:
    supervisor = supervisor_number()
    daemon = start(**{MARK: f"{supervisor}.x.y."})
    assert descendants(supervisor) == {daemon.pid: (-1, -1)}


@given(st.integers(0, SLOTS - 1), st.integers(0, 2**32))
def test_a_mark_says_slot_and_generation(slot: int, generation: int) -> None:
    assert _child_of(mark(1, slot, generation).encode().removeprefix(b"1.")) == (slot, generation)


@given(st.binary())
def test_any_mark_can_be_read(text: bytes) -> None:
    slot, generation = _child_of(text)
    assert (slot, generation) == (-1, -1) or min(slot, generation) >= 0


def test_all_processes_are_listed() -> None:
    assert {os.getpid(), os.getppid()} <= set(process_ids())


def test_a_process_out_of_descriptors_sees_nobody() -> None:
    def look() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        assert process_ids() == []

    in_child(look)


def test_nothing_is_killed_while_the_supervisor_lives(start: Start, board: Scoreboard) -> None:
    supervisor, child = start(), start()
    seat(board, 0, child.pid)
    pidfd = os.pidfd_open(supervisor.pid)
    clear_up_after(pidfd, board)
    os.close(pidfd)
    assert alive(child)


def test_everything_is_killed_once_the_supervisor_is_dead(start: Start, board: Scoreboard) -> None:
    supervisor, child = start(), start(FAMILY)
    seat(board, 0, child.pid)
    pidfd = os.pidfd_open(supervisor.pid)
    supervisor.kill()  # may die only after the call has begun: the end of the channel comes first
    clear_up_after(pidfd, board)
    os.close(pidfd)
    assert all_dead(child)
