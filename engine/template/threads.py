"""Is this process safe to fork from? Counts its threads and sockets and says who brought them."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterable
from types import FrameType


def unsafe_to_fork(allowed_sockets: Iterable[int]) -> list[str]:
    """Reasons why forking from this process could hang or mix up its children; empty if none.

    :param allowed_sockets: descriptors of sockets that are the engine's own.
    """
    return _other_threads() + _open_sockets(frozenset(allowed_sockets))


def _other_threads() -> list[str]:
    tasks = len(os.listdir("/proc/self/task"))
    if tasks <= 1:
        return []
    frames = sys._current_frames()
    known = [
        f"thread {thread.name!r} of {_module_of(frames.get(thread.ident or 0))}"
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    ]
    hidden = tasks - 1 - len(known)
    if hidden > 0:
        known.append(f"{hidden} thread(s) started by a C library")
    return known


def _module_of(frame: FrameType | None) -> str:
    """The module that started the thread: the innermost one that is not the threading machinery."""
    name = "an unknown module"
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module not in ("threading", "queue", "selectors", "concurrent.futures.thread"):
            return module or name
        frame = frame.f_back
    return name


def _open_sockets(allowed: frozenset[int]) -> list[str]:
    reasons = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in allowed or fd <= 2:
            continue
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                reasons.append(f"open socket (descriptor {fd})")
        except OSError:
            continue  # the descriptor of the listing itself
    return reasons
