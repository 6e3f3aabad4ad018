"""The few Linux calls that the standard library does not offer, through ctypes.

Standard library only: the supervisor imports this module. Facts: prctl(2), futex(2), proc(5).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_FUTEX_WAIT: Final = 0
_FUTEX_WAKE: Final = 1
_FUTEX_NUMBERS: Final = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class Linux:
    """The C library, opened once per process that needs it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def die_with_parent(self, expected_parent: int) -> None:
        """Have the kernel kill this process when the thread that is its parent ends.

        :param expected_parent: the pid that must be the parent now. If it is not, the parent has
            died in between and no signal will come: the process leaves at once.
        """
        if self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != expected_parent:
            os._exit(1)

    def outlive_parent(self) -> None:
        """Take `die_with_parent` back; from now on this process watches its parent itself."""
        if self._libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG, 0)")

    def become_subreaper(self) -> None:
        """Let orphans among the descendants of this process become its children."""
        if self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    def futex(self, buffer: mmap.mmap, offset: int) -> Futex | PollingFutex:
        """A futex on four bytes of a shared mapping; on an unknown machine, one that polls."""
        number = _FUTEX_NUMBERS.get(platform.machine())
        if number is None:
            return PollingFutex(buffer, offset)
        return Futex(self._libc, number, buffer, offset)


class Futex:
    """A word in shared memory on which one process sleeps until another changes it."""

    __slots__ = ("_address", "_libc", "_number", "_word")

    def __init__(self, libc: ctypes.CDLL, number: int, buffer: mmap.mmap, offset: int) -> None:
        self._libc = libc
        self._number = number
        self._word = ctypes.c_uint32.from_buffer(buffer, offset)
        self._address = ctypes.c_void_p(ctypes.addressof(self._word))

    def value(self) -> int:
        """The present value; read it before looking for work, pass it to `wait` afterwards."""
        return self._word.value

    def wait(self, seen: int, timeout_s: float) -> None:
        """Sleep until the word differs from `seen`, a signal comes, or the time is over."""
        seconds = int(timeout_s)
        timeout = _Timespec(seconds, int((timeout_s - seconds) * 1e9))
        self._libc.syscall(
            ctypes.c_long(self._number),
            self._address,
            ctypes.c_int(_FUTEX_WAIT),
            ctypes.c_uint32(seen),
            ctypes.byref(timeout),
            None,
            ctypes.c_int(0),
        )

    def wake(self) -> None:
        """Change the word and wake whoever sleeps on it."""
        self._word.value = (self._word.value + 1) & 0xFFFFFFFF
        self._libc.syscall(
            ctypes.c_long(self._number),
            self._address,
            ctypes.c_int(_FUTEX_WAKE),
            ctypes.c_int(0x7FFFFFFF),
            None,
            None,
            ctypes.c_int(0),
        )


class PollingFutex:
    """The same for a machine whose system call number is not known: looks every few milliseconds."""

    __slots__ = ("_word",)

    def __init__(self, buffer: mmap.mmap, offset: int) -> None:
        self._word = ctypes.c_uint32.from_buffer(buffer, offset)

    def value(self) -> int:
        """The present value."""
        return self._word.value

    def wait(self, seen: int, timeout_s: float) -> None:
        """Sleep until the word differs from `seen`, or the time is over."""
        for _ in range(max(1, int(timeout_s / 0.005))):
            if self._word.value != seen:
                return
            signal.sigtimedwait([], 0.005)

    def wake(self) -> None:
        """Change the word."""
        self._word.value = (self._word.value + 1) & 0xFFFFFFFF


def threads_of(pid: int) -> list[int]:
    """The thread ids of a process; empty when it is gone, or no descriptor is left to look with."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def states_of_threads(pid: int) -> list[str]:
    """The state letter of every thread of a process (proc(5): R, S, D, T, Z …)."""
    letters = []
    for thread in threads_of(pid):
        try:
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as stat:
                # The name in parentheses may itself hold parentheses and spaces.
                letters.append(stat.read().rpartition(b")")[2].split()[0].decode())
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return []  # no descriptor is left: nothing can be said of them all
    return letters


def private_kib(pid: int) -> int | None:
    """Private memory of a process in KiB (shared template pages are not counted), or None if gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            lines = rollup.read().split(b"\n")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return sum(int(line.split()[1]) for line in lines if line.startswith((b"Private_", b"Swap:")))
