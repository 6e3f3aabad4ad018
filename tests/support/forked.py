"""Running a function in a forked child."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

DEADLINE_S = 20.0


def in_child(function: Callable[[], object], *, deadline_s: float = DEADLINE_S) -> None:
    """Run a function in a forked child; fail when it raises, is killed, or takes too long."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = _wait(pid, deadline_s)
    assert os.waitstatus_to_exitcode(status) == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}"


def _wait(pid: int, deadline_s: float) -> int:
    end_mono_s = time.monotonic() + deadline_s
    while time.monotonic() < end_mono_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the child was still running after {deadline_s} s")
