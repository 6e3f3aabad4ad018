"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path

MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def file_system(path: Path) -> str:
    """Type of the file system that a path lies on, as the kernel names it."""
    return _mount(path)[1]


def has_journal(path: Path) -> bool:
    """Whether a journal of ext4 is active there; without one, ext4 makes files slowly after deletions."""
    device = os.path.basename(_mount(path)[0])
    return any(journal.name.startswith(f"{device}-") for journal in Path("/proc/fs/jbd2").glob("*"))


def _mount(path: Path) -> tuple[str, str]:
    """Device and type of the innermost mount that a path lies on."""
    real, best, found = os.path.realpath(path), "", ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount_point, kind, *_ = line.split()
        inside = real == mount_point or real.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, found = mount_point, (device, kind)
    return found


def disk_directory() -> Path:
    """A directory of this user that is not in memory.

    :raises RuntimeError: there is none; name one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for candidate in (cache, Path("/var/tmp")):
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue  # the next one may be writable
        if file_system(candidate) not in MEMORY_FILE_SYSTEMS and os.access(candidate, os.W_OK):
            return candidate
    raise RuntimeError("no directory on a disk; give one with --directory")


def load() -> float:
    """How many processes wanted to run, on the average of the last minute."""
    return os.getloadavg()[0]


def wait_until_quiet(below: float, within_s: float) -> float:
    """Wait for the machine to have little else to do; returns the load that it has then."""
    deadline_s = time.monotonic() + within_s
    while load() >= below and time.monotonic() < deadline_s:
        time.sleep(2.0)
    return load()


def processor() -> dict[str, str]:
    """What every figure depends on."""
    return {
        "CPU": f"{len(os.sched_getaffinity(0))} cores, {_cpu_model()}",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def describe(directory: Path) -> dict[str, str]:
    """Machine and versions, for the head of the report."""
    return {
        **processor(),
        "file system": _storage(directory),
        "prefork": version("prefork"),
        "Huey": f"{version('huey')}, SQLite {sqlite3.sqlite_version}",
    }


def _storage(directory: Path) -> str:
    device, kind = _mount(directory)
    journal = "" if kind != "ext4" else " with a journal" if has_journal(directory) else " without a journal"
    return f"{kind}{journal}, on {os.path.basename(device)}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
