"""The program that repeats the tests of Redis with several servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import redis_versions
from support.redis_versions import servers

PROGRAM = Path(redis_versions.__file__)


def server(path: Path, version: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


def run(value: str, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, redis_versions.VARIABLE: value}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *command], env=environ, capture_output=True, text=True, timeout=60
    )


def test_a_command_runs_once_with_each_server(tmp_path: Path) -> None:
    old = server(tmp_path / "a" / "redis-server", "old")
    new = server(tmp_path / "b" / "valkey-server", "new")
    server(tmp_path / "b" / "valkey-cli", "client of new")
    done = run(
        f"{old}:{new}", "sh", "-c", "redis-server; env | grep SERVERS; redis-cli 2>/dev/null | grep new"
    )
    assert done.stdout.splitlines() == ["== old", "old", "== new", "new", "client of new"]
    assert done.returncode == 1  # the first one had no client that says so


def test_servers_must_be_named_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="must name"):
        servers(":")
    with pytest.raises(SystemExit, match="no program"):
        servers(str(tmp_path))
    with pytest.raises(SystemExit, match="no program"):
        servers(str(tmp_path / "missing"))
