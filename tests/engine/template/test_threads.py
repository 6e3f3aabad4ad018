"""Whether a process is safe to fork from, asked in forked processes so that this one stays clean."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from prefork.engine.template.threads import unsafe_to_fork
from support.forked import in_child
from support.waiting import eventually


def asked(*allowed: int) -> list[str]:
    return unsafe_to_fork(allowed)


def close_inherited() -> None:
    os.closerange(3, 4096)


def test_a_process_with_one_thread_and_no_sockets_is_safe() -> None:
    def look() -> None:
        close_inherited()
        assert asked() == []

    in_child(look)


def test_a_thread_is_named_with_the_module_it_runs_in() -> None:
    def look() -> None:
        close_inherited()
        reached = threading.Event()
        threading.Thread(target=threading.Event().wait, args=(60,), name="bare", daemon=True).start()
        threading.Thread(target=wait_for, args=(reached,), name="poller", daemon=True).start()
        assert reached.wait(10)
        assert sorted(asked()) == [
            "thread 'bare' of an unknown module",
            f"thread 'poller' of {__name__}",
        ]

    in_child(look)


def wait_for(reached: threading.Event) -> None:
    reached.set()
    threading.Event().wait(60)


def test_a_thread_that_is_nothing_but_machinery_is_of_an_unknown_module() -> None:
    def look() -> None:
        close_inherited()
        pool = ThreadPoolExecutor(1, thread_name_prefix="pool")
        pool.submit(int).result(10)
        assert asked() == ["thread 'pool_0' of an unknown module"]

    in_child(look)


def test_threads_started_by_a_c_library_are_counted() -> None:
    def look() -> None:
        close_inherited()
        start_in_c()
        start_in_c()
        assert asked() == ["2 thread(s) started by a C library"]

    in_child(look)


def start_in_c() -> None:
    """A thread that Python knows nothing of: it waits for a signal in the C library."""
    libc = ctypes.CDLL(None)
    handle = ctypes.c_ulong()
    routine = ctypes.cast(libc.pause, ctypes.c_void_p)
    assert libc.pthread_create(ctypes.byref(handle), None, routine, None) == 0


def test_a_thread_that_has_ended_does_not_count() -> None:
    def look() -> None:
        close_inherited()
        thread = threading.Thread(target=int)
        thread.start()
        thread.join(10)
        # join returns a moment before the kernel's thread is gone
        eventually(lambda: len(os.listdir("/proc/self/task")) == 1)
        assert asked() == []

    in_child(look)


def test_open_sockets_are_named_by_descriptor_and_allowed_ones_are_not() -> None:
    def look() -> None:
        close_inherited()
        ours, theirs = socket.socketpair()
        listener = socket.socket(socket.AF_INET)
        read_fd, write_fd = os.pipe()
        assert min(read_fd, write_fd) > 2
        assert asked(ours.fileno(), theirs.fileno()) == [f"open socket (descriptor {listener.fileno()})"]
        assert len(asked()) == 3
        listener.close()
        assert asked(ours.fileno(), theirs.fileno()) == []

    in_child(look)


def test_a_socket_as_standard_stream_is_allowed() -> None:
    def look() -> None:
        close_inherited()
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), 0)
        assert asked(ours.fileno(), theirs.fileno()) == []

    in_child(look)
