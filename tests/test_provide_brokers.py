"""What the tests need is installed where that is possible, and asked for where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import provide_brokers
from support.provide_brokers import commands, missing, services_not_started

PROGRAM = Path(provide_brokers.__file__)


def test_nothing_is_done_when_everything_is_there(tmp_path: Path) -> None:
    for name in provide_brokers.PROGRAMS:
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    assert missing(str(tmp_path)) == []
    assert commands([], root=False, apt=None) == []
    environ = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environ, capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b""


def test_a_program_that_is_nowhere_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provide_brokers, "PLACES", (str(tmp_path),))
    assert missing("") == ["redis-server", "rabbitmq-server"]


def test_root_installs_what_is_missing_and_nothing_else() -> None:
    update, install = commands(["redis-server"], root=True, apt="apt-get")
    assert update == ["apt-get", "update"]
    assert install[-1] == "redis-server"
    assert "rabbitmq-server" not in install


@pytest.mark.parametrize(("root", "apt"), [(False, "apt-get"), (True, None)])
def test_whoever_cannot_install_is_told_what_to_install(root: bool, apt: str | None) -> None:
    with pytest.raises(SystemExit, match="Install the packages redis-server rabbitmq-server"):
        commands(["redis-server", "rabbitmq-server"], root=root, apt=apt)


def test_services_stay_off_while_packages_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with services_not_started(policy):
        assert subprocess.run([str(policy), "redis-server", "start"], check=False).returncode == 101
    assert not policy.exists()


def test_a_policy_of_the_system_is_left_alone(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    with services_not_started(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert policy.exists()
