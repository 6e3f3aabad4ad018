"""Privileges and going into the background."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefork.engine.cli.failures import CommandError, ExitCode
from prefork.engine.cli.process import Privileges

DETACH = """
import os, sys, time
from prefork.engine.cli.process import detach
detach(sys.argv[1])
print("session", os.getsid(0), flush=True)
open(sys.argv[2], "w").write(f"{os.getpid()} {os.getppid()} {os.getsid(0)}")
os.rename(sys.argv[2], sys.argv[2] + ".whole")
"""


def test_nothing_given_changes_nothing() -> None:
    before = (os.getuid(), os.getgid())
    Privileges.named(None, None, None).apply()
    assert (os.getuid(), os.getgid()) == before


def test_names_and_numbers_name_the_same_user() -> None:
    me = pwd.getpwuid(os.getuid())
    assert Privileges.named(me.pw_name, None, None) == Privileges.named(str(me.pw_uid), None, None)


@pytest.mark.parametrize(
    ("user", "group", "umask", "says"),
    [
        ("nobody-of-this-name", None, None, "--uid"),
        (None, "no-group-of-this-name", None, "--gid"),
        ("4000000000", None, None, "--uid"),
        ("9" * 30, None, None, "--uid"),
        ("²", None, None, "--uid"),
        (None, None, "9", "--umask 9"),
    ],
)
def test_an_unknown_name_is_refused(
    user: str | None, group: str | None, umask: str | None, says: str
) -> None:
    with pytest.raises(CommandError) as refused:
        Privileges.named(user, group, umask)
    assert says in str(refused.value)
    assert refused.value.code == ExitCode.USAGE


def test_a_change_that_is_not_permitted_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise PermissionError("not permitted")

    monkeypatch.setattr(os, "setgid", refuse)
    with pytest.raises(CommandError, match="start as root"):
        Privileges(uid=None, gid=os.getgid() + 1, umask=None).apply()


def test_group_user_and_mask_are_applied_group_first(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(os, "setgid", lambda gid: calls.append(("gid", gid)))
    monkeypatch.setattr(os, "setuid", lambda uid: calls.append(("uid", uid)))
    monkeypatch.setattr(os, "initgroups", lambda name, gid: calls.append(("groups", name)))
    monkeypatch.setattr(os, "umask", lambda mask: calls.append(("umask", mask)))
    Privileges(uid=os.getuid() + 1, gid=os.getgid() + 1, umask=0o27, user="worker").apply()
    assert calls == [
        ("umask", 0o27),
        ("gid", os.getgid() + 1),
        ("groups", "worker"),
        ("uid", os.getuid() + 1),
    ]


def test_a_detached_process_has_a_session_of_its_own_and_logs_to_its_file(tmp_path: Path) -> None:
    log, proof = tmp_path / "log", tmp_path / "proof"
    command = [sys.executable, "-c", DETACH, str(log), str(proof)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd="/")
    assert (done.returncode, done.stdout) == (0, "")
    deadline = time.monotonic() + 20
    whole = proof.with_name("proof.whole")
    while not whole.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    pid, _, session = map(int, whole.read_text().split())
    assert session not in {os.getsid(0), pid}
    assert log.read_text().startswith("session")
