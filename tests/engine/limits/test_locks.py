"""One holder at a time, be it a process or a thread, and nobody waits for long."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator

import pytest

from prefork.engine.limits.locks import ByteLocks


@pytest.fixture
def fd() -> Iterator[int]:
    opened = os.memfd_create("test-locks")
    yield opened
    os.close(opened)


def test_threads_of_one_process_exclude_each_other(fd: int) -> None:
    locks = ByteLocks(fd)
    inside = overlaps = entered = 0
    counting = threading.Lock()

    def enter_often() -> None:
        nonlocal inside, overlaps, entered
        for _ in range(300):
            with locks.held(7) as taken:
                if not taken:
                    continue
                with counting:
                    inside, entered = inside + 1, entered + 1
                    overlaps += inside > 1
                time.sleep(0)  # lets another thread run while this one holds the lock
                with counting:
                    inside -= 1

    threads = [threading.Thread(target=enter_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert overlaps == 0
    assert entered > 600


def test_a_thread_that_keeps_a_lock_is_not_waited_for_long(fd: int) -> None:
    locks = ByteLocks(fd)
    with locks.held(1) as taken:
        assert taken
        answers: list[bool] = []

        def ask() -> None:
            with locks.held(1) as also:
                answers.append(also)

        other = threading.Thread(target=ask)
        other.start()
        other.join(10)
    assert answers == [False]
    with locks.held(1) as taken:
        assert taken


def test_a_process_that_keeps_a_byte_is_not_waited_for_long_and_leaves_the_others(fd: int) -> None:
    locks = ByteLocks(fd)
    locked, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 3)
        os.write(locked[1], b"1")
        os.read(done[0], 1)
        os._exit(0)
    os.read(locked[0], 1)
    try:
        with locks.held(3) as taken:
            assert not taken
        with locks.held(4) as taken:
            assert taken
    finally:
        os.write(done[1], b"1")
        os.waitpid(child, 0)
        for end in (*locked, *done):
            os.close(end)
    with locks.held(3) as taken:
        assert taken, "the kernel released it with its process"


def test_a_descriptor_that_was_closed_is_an_error_that_leaves_nothing_locked() -> None:
    closed = os.memfd_create("test-locks")
    os.close(closed)
    locks = ByteLocks(closed)
    for _ in range(2):
        with pytest.raises(OSError), locks.held(1):
            raise AssertionError("nobody holds a lock of a file that is closed")
