"""The program that repeats the tests of RabbitMQ with several servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import rabbitmq_versions
from support.rabbitmq_versions import config_for, servers

PROGRAM = Path(rabbitmq_versions.__file__)


def server(directory: Path, version: str) -> Path:
    directory.mkdir()
    for name in ("rabbitmq-server", "rabbitmqctl"):
        (directory / name).write_text(f"#!/bin/sh\necho {version}\n")
        (directory / name).chmod(0o755)
    return directory / "rabbitmq-server"


def test_a_command_runs_once_with_each_server_and_fails_with_any(tmp_path: Path) -> None:
    old, new = server(tmp_path / "a", "3.10.8"), server(tmp_path / "b", "4.0.5")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "sh", "-c", 'rabbitmq-server; test -n "$TESTS_RABBITMQ_CONFIG"'],
        env={**os.environ, rabbitmq_versions.VARIABLE: f"{old}:{new}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["== RabbitMQ 3.10.8", "3.10.8", "== RabbitMQ 4.0.5", "4.0.5"]
    assert done.returncode == 1


def test_only_new_servers_are_told_to_refuse_what_is_deprecated() -> None:
    assert config_for("3.13.7") == ""
    assert "deprecated_features.permit.transient_nonexcl_queues = false\n" in config_for("4.1.0")


def test_servers_must_be_named_and_be_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="must name"):
        servers("")
    with pytest.raises(SystemExit, match="no program"):
        servers(str(tmp_path / "rabbitmq-server"))
    alone = server(tmp_path / "alone", "4")
    alone.with_name("rabbitmqctl").unlink()
    with pytest.raises(SystemExit, match="rabbitmqctl"):
        servers(str(alone))
