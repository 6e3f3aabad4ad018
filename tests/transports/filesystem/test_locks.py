from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from prefork.transports.base import Outgoing
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.filesystem.fileops import FileOps
from prefork.transports.filesystem.locks import FileLock, process_locks
from prefork.transports.filesystem.transport import FilesystemTransport
from support.forked import in_child
from support.waiting import Background


def hold_in_child(path: Path) -> int:
    """A process that holds the lock until it is killed; returns once it does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        FileLock(str(path), FileOps(), 5.0).acquire()
        os.write(writing, b"x")
        signal.pause()
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return pid


def test_a_lock_that_another_process_keeps_is_given_up_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    pid = hold_in_child(path)
    try:
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(BrokerUnavailable, match=f"another process held {path}"):
            FileLock(str(path), FileOps(), 0.05).acquire()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    pid = hold_in_child(path)
    lock = FileLock(str(path), FileOps(), 10.0)
    waiting = Background(lock.acquire)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    waiting.result()
    lock.release()


def test_a_lock_excludes_the_threads_of_its_own_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = process_locks().get(path, FileOps(), 0.05)
    assert process_locks().get(path, FileOps(), 0.05) is first
    with first, pytest.raises(BrokerUnavailable, match="a thread of this process"):
        first.acquire()
    first.acquire()
    first.release()


def test_a_lock_whose_file_was_removed_is_taken_on_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(str(path), FileOps(), 1.0)
    with lock:
        generation = lock.generation
    path.unlink()
    with lock:
        assert lock.generation == generation + 1
        assert path.exists()


def test_a_fork_while_a_lock_is_held_starts_without_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = process_locks().get(path, FileOps(), 0.1)

    def child() -> None:
        with pytest.raises(BrokerUnavailable, match="another process"):
            lock.acquire()

    with lock:
        in_child(child)
        # The child closed its copy of the descriptor, which must not drop our lock.
        in_child(child)


def test_a_transport_of_before_a_fork_still_sends(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path / "broker")
    transport.send([Outgoing("q", b"parent")])
    in_child(lambda: transport.send([Outgoing("q", b"child")]))
    assert [one.document for one in transport.peek("q")] == [b"parent", b"child"]
    transport.close()
