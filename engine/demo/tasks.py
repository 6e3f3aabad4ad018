"""What the demonstration's worker does: honest work, and three tasks that misbehave on purpose."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import TypedDict

from ..task import Task
from .app import app

OVERRUN_LIMIT_S = 1.0
RETRY_DELAY_S = 0.2


class Counted(TypedDict):
    """What is known about a file afterwards."""

    sha256: str
    lines: int
    words: int
    size_bytes: int


@app.task(name="demo.count")
def count(path: str) -> Counted:
    """Hash a file and count its words.

    :raises OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "lines": content.count(b"\n"),
        "words": len(content.split()),
        "size_bytes": len(content),
    }


@app.task(name="demo.crash_once")
def crash_once(marker: str) -> int:
    """Kill the process that runs this, the first time; succeed when run again.

    :param marker: a file that remembers, across processes, that the crash has happened.
    :returns: the process id of the process that died.
    """
    path = Path(marker)
    if path.exists():
        return int(path.read_text())
    path.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("a process outlived SIGKILL")


@app.task(name="demo.overrun", time_limit=OVERRUN_LIMIT_S)
def overrun(seconds: float) -> None:
    """Take longer than the hard time limit allows."""
    time.sleep(seconds)


@app.task(name="demo.second_try", bind=True, max_retries=3)
def second_try(self: Task[..., int]) -> int:
    """Ask to be run again, the first time; then say how many attempts it took."""
    if self.request.retries == 0:
        raise self.retry(countdown=RETRY_DELAY_S)
    return self.request.retries + 1
