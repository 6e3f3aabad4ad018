"""The worker of the demonstration: the same supervisor that `prefork worker` becomes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..boot import BootSpec, supervisor_command, write_spec

_STOP_S = 40.0


@contextmanager
def own_worker(app: str, settings: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker for as long as the block lasts. It also goes when this process dies.

    :param app: where the application is, ``module:attribute``.
    :param settings: configuration, by lower-case name.
    """
    spec = BootSpec(app=app, settings=settings, loglevel="CRITICAL", watch_pid=os.getpid(), banner=False)
    spec_fd = write_spec(spec)
    try:
        # A session of its own: Ctrl-C is for this process, which then stops the worker in order.
        process = subprocess.Popen(
            supervisor_command(spec_fd), pass_fds=[spec_fd], stdin=subprocess.DEVNULL, start_new_session=True
        )
    finally:
        os.close(spec_fd)
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
