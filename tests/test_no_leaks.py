"""What `no_leaks` takes for a leak: whatever is left below a worker, but no helper of a server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from support.servers import own_processes, servers
from support.waiting import eventually


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that was there before, and starts another one when it is told to."""
    process = subprocess.Popen(
        ["sh", "-c", "read told; sleep 300 & read told; kill $!; wait"], stdin=subprocess.PIPE
    )
    yield process
    process.communicate(b"\n")


def tell(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdin is not None
    parent.stdin.write(b"\n")
    parent.stdin.flush()


def test_what_is_left_below_a_child_that_was_there_before_is_seen(parent: subprocess.Popen[bytes]) -> None:
    before = own_processes()
    tell(parent)
    (left,) = eventually(lambda: own_processes() - before)
    assert left.ppid() == parent.pid


def test_what_a_server_starts_is_no_leak_and_the_server_is_one(parent: subprocess.Popen[bytes]) -> None:
    before = own_processes()
    tell(parent)
    (helper,) = eventually(lambda: own_processes() - before)
    servers().add(parent.pid)
    try:
        assert helper not in own_processes()
        assert parent.pid in {one.pid for one in own_processes()}
    finally:
        servers().discard(parent.pid)
