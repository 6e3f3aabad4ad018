"""Waiting for descriptors, whatever their numbers."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Iterator

import pytest

from prefork.transports.readable import wait_readable


@pytest.fixture
def high_fd() -> Iterator[int]:
    """A counter whose descriptor is above what `select` takes."""
    low = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
    yield high
    os.close(high)
    os.close(low)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_descriptor_of_any_number_is_waited_for(high_fd: int) -> None:
    began_s = time.monotonic()
    assert not wait_readable([high_fd], 0.05)
    assert time.monotonic() - began_s >= 0.05
    os.eventfd_write(high_fd, 1)
    assert wait_readable([high_fd], 60.0)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_no_time_only_looks(high_fd: int, timeout_s: float) -> None:
    assert not wait_readable([high_fd], timeout_s)
    os.eventfd_write(high_fd, 1)
    assert wait_readable([high_fd], timeout_s)
