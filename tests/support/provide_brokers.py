"""Makes sure that the servers which the tests start are installed. Run by tox before the tests.

Does nothing when they are there. Else, as root on a system with apt-get, installs them and keeps the
services from starting: tests start private servers of their own. Anywhere else it says what to install.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = {"redis-server": "redis-server", "rabbitmq-server": "rabbitmq-server"}
"""The programs, and the Debian packages that bring them."""

PLACES = ("/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/usr/lib/rabbitmq/bin")
POLICY = Path("/usr/sbin/policy-rc.d")
NOT_STARTED = "#!/bin/sh\nexit 101\n"
SECONDS = 900


def missing(path: str) -> list[str]:
    """The programs that are neither on `path` nor in the usual places."""
    places = os.pathsep.join([path, *PLACES])
    return [name for name in PROGRAMS if shutil.which(name, path=places) is None]


def commands(names: Sequence[str], *, root: bool, apt: str | None) -> list[list[str]]:
    """What has to be run to get these programs; nothing when none is missing.

    :raises SystemExit: they cannot be installed from here; says what to do.
    """
    if not names:
        return []
    packages = [PROGRAMS[name] for name in names]
    if not root or apt is None:
        raise SystemExit(
            f"The tests need {' and '.join(names)}, and cannot install them here: that takes root and "
            f"apt-get. Install the packages {' '.join(packages)} of your system; their services need not run."
        )
    return [[apt, "update"], [apt, "install", "-y", "--no-install-recommends", *packages]]


@contextmanager
def services_not_started(policy: Path = POLICY) -> Iterator[None]:
    """While it lasts, a package that is installed does not start its service."""
    mine = not policy.exists()
    if mine:
        policy.write_text(NOT_STARTED)
        policy.chmod(0o755)
    try:
        yield
    finally:
        if mine:
            policy.unlink(missing_ok=True)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Waits for another run of this program."""
    lock = Path(tempfile.gettempdir()) / f"prefork-provide-brokers-{os.getuid()}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Install what is missing."""
    path = os.environ.get("PATH", "")
    if not missing(path):
        return
    with one_at_a_time():
        todo = commands(missing(path), root=os.geteuid() == 0, apt=shutil.which("apt-get"))
        if not todo:
            return
        with services_not_started():
            for command in todo:
                print("+", " ".join(command), flush=True)
                environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
                # The list of one of several sources may be out of reach; installing shows what matters.
                status = subprocess.run(command, env=environ, timeout=SECONDS, check=False).returncode
                if status and "update" not in command:
                    raise SystemExit(
                        f"{' '.join(command)} failed with {status}; install the packages by hand"
                    )
    left = missing(path)
    if left:
        raise SystemExit(f"{' and '.join(left)} cannot be found although installed; put it on PATH")


if __name__ == "__main__":
    sys.exit(main())
