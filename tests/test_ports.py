"""Ports for the servers of tests, of which many run side by side."""

from __future__ import annotations

import socket
from pathlib import Path

from support.forked import in_child
from support.ports import BLOCK, free_port


def test_two_processes_are_never_given_the_same_port(tmp_path: Path) -> None:
    mine = {free_port() for _ in range(BLOCK // 2)}
    for number in range(3):
        told = tmp_path / str(number)
        in_child(lambda told=told: told.write_text(" ".join(str(free_port()) for _ in range(BLOCK))))
        theirs = set(map(int, told.read_text().split()))
        assert len(theirs) > BLOCK // 2
        assert not mine & theirs


def test_a_kernel_as_it_comes_gives_none_of_them_to_anybody_who_connects() -> None:
    ports = [free_port() for _ in range(BLOCK)]
    assert max(ports) + 10_000 < 32_768


def test_a_port_in_use_is_passed_over_and_a_free_one_comes_again() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        assert taken not in {free_port() for _ in range(2 * BLOCK)}
    assert taken in {free_port() for _ in range(2 * BLOCK)}
