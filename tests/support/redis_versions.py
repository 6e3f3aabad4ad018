"""Runs the tests of Redis once with each server program of PREFORK_TEST_REDIS_SERVERS. Run by tox.

The variable holds paths, separated by ``:``. A ``redis-cli`` that lies beside a server is used with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "PREFORK_TEST_REDIS_SERVERS"


def servers(text: str) -> list[Path]:
    """The programs that a value of the variable names.

    :raises SystemExit: it names none, or one that cannot be run.
    """
    found = [Path(name).resolve() for name in text.split(":") if name]
    if not found:
        raise SystemExit(f"{VARIABLE} must name server programs, separated by ':'; see CONTRIBUTING.md")
    for program in found:
        if not os.access(program, os.X_OK) or program.is_dir():
            raise SystemExit(f"{program}, named in {VARIABLE}, is no program that can be run")
    return found


def bin_of(program: Path, directory: Path) -> Path:
    """A directory for PATH in which a program is called redis-server, beside its redis-cli."""
    directory.mkdir()
    (directory / "redis-server").symlink_to(program)
    for name in ("redis-cli", "valkey-cli"):
        if (program.parent / name).exists():
            (directory / "redis-cli").symlink_to(program.parent / name)
            break
    return directory


def main(command: Sequence[str]) -> int:
    """Run a command with each server in front of PATH; the number of those with which it failed."""
    failed = 0
    # The variable is for us: prefork would take it for a setting of its own.
    environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
    with tempfile.TemporaryDirectory(prefix="prefork-redis-versions-") as root:
        for index, program in enumerate(servers(os.environ.get(VARIABLE, ""))):
            version = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=True
            ).stdout
            print(f"== {version.strip()}", flush=True)
            path = f"{bin_of(program, Path(root, str(index)))}:{os.environ.get('PATH', '')}"
            status = subprocess.run(command, env={**environ, "PATH": path}, check=False).returncode
            failed += status != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
