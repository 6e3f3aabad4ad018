"""What workers agree on, when somebody is killed in the middle, the disk is full, or clocks are set."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.transports.coordination import REVOKED_MAX
from prefork.transports.errors import BrokerFull
from prefork.transports.filesystem import clock
from prefork.transports.filesystem.transport import FilesystemTransport
from support.failing_files import FullAt, KilledAt, run_in_child

LONG_S = 600.0
SLOW = 1 / 3600
CALLS_MAX = 50

Operation = Callable[[FilesystemTransport], object]

# Each with what may be read afterwards: the state before it, and the state it makes.
OPERATIONS: dict[str, Operation] = {
    "lock": lambda port: port.lock("free", "mine", LONG_S),
    "prolong": lambda port: port.lock("held", "value", LONG_S),
    "prolong what is held": lambda port: port.prolong("held", "value", LONG_S),
    "relock": lambda port: port.relock("held", "mine", LONG_S),
    "unlock": lambda port: port.unlock("held", "value"),
    "take tokens": lambda port: port.take_tokens("bucket", SLOW, 5, 2),
    "take a slot": lambda port: port.take_slot("slots", 3, "worker", "owner/2"),
    "free a slot": lambda port: port.free_slot("slots", "owner/1"),
    "free the slots": lambda port: port.free_slots_of("owner"),
    "revoke": lambda port: port.revoke(["second", "third"], LONG_S),
    "maintain": lambda port: port.maintain(),
}


def prepared(root: Path) -> FilesystemTransport:
    transport = FilesystemTransport(root)
    transport.heartbeat("worker", LONG_S)
    transport.lock("held", "value", LONG_S)
    transport.take_tokens("bucket", SLOW, 5, 1)
    transport.take_slot("slots", 3, "worker", "owner/1")
    transport.revoke(["first"], LONG_S)
    return transport


def state(transport: FilesystemTransport) -> dict[str, object]:
    """Everything that can be read; slots and tokens by taking what is left."""
    slots = [transport.take_slot("slots", 3, "worker", f"probe/{number}") for number in range(3)]
    transport.free_slots_of("probe")
    return {
        "free": transport.locked("free"),
        "held": transport.locked("held"),
        "tokens": transport.take_tokens("bucket", SLOW, 5, 5).tokens,
        "slots left": sum(slots),
        "revoked": transport.revoked(),
    }


@pytest.mark.parametrize("operation", OPERATIONS)
def test_who_is_killed_in_the_middle_leaves_the_state_before_or_after(tmp_path: Path, operation: str) -> None:
    act = OPERATIONS[operation]
    before = state(prepared(tmp_path / "before"))
    done = prepared(tmp_path / "after")
    act(done)
    after = state(done)
    for number in range(1, CALLS_MAX):
        root = tmp_path / str(number)
        prepared(root)

        def doomed(root: Path = root, number: int = number) -> None:
            ops = KilledAt(number)
            transport = FilesystemTransport(root, ops=ops)
            ops.armed = True
            act(transport)

        finished = run_in_child(doomed)
        found = state(FilesystemTransport(root))
        allowed = [after] if finished else [before, after]
        # A list of revocations may have grown by its first one only.
        assert found in allowed or (operation == "revoke" and found["revoked"] == ["first", "second"]), found
        assert FilesystemTransport(root).maintain() == [], "something was in the way"
        if finished:
            return
    raise AssertionError(f"more than {CALLS_MAX} calls")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_is_said_and_changes_nothing(tmp_path: Path, operation: str) -> None:
    before = state(prepared(tmp_path / "before"))
    done = prepared(tmp_path / "after")
    OPERATIONS[operation](done)
    after = state(done)
    for number in range(1, CALLS_MAX):
        root = tmp_path / str(number)
        prepared(root)
        ops = FullAt(number)
        transport = FilesystemTransport(root, ops=ops)
        ops.armed = True
        expected = after
        try:
            OPERATIONS[operation](transport)
        except BrokerFull:
            expected = before
        ops.armed = False
        assert state(FilesystemTransport(root)) == expected
        if not ops.hit:
            return
    raise AssertionError(f"more than {CALLS_MAX} calls")


@pytest.mark.parametrize("operation", ["free a slot", "free the slots", "unlock", "prolong"])
def test_what_frees_or_prolongs_needs_no_space(tmp_path: Path, operation: str) -> None:
    transport = prepared(tmp_path)
    transport.take_slot("slots", 3, "worker", "another/1")
    ops = FullAt(1)
    full = FilesystemTransport(tmp_path, ops=ops)
    really_written = FullAt.write_all

    def write_over(fd: int, data: bytes | bytearray, offset: int) -> None:
        # Space that a file has can be written on a full disk.
        if os.fstat(fd).st_size >= offset + len(data):
            super(FullAt, ops).write_all(fd, data, offset)
        else:
            really_written(ops, fd, data, offset)

    ops.write_all = write_over  # type: ignore[method-assign]
    ops.armed = True
    OPERATIONS[operation](full)
    slots = [transport.take_slot("slots", 3, "worker", f"probe/{number}") for number in range(3)]
    assert sum(slots) == (2 if operation.startswith("free") else 1)
    assert transport.locked("held") == (None if operation == "unlock" else "value")


def test_files_are_private_and_gone_once_they_say_nothing(tmp_path: Path) -> None:
    transport = prepared(tmp_path)
    files = [path for path in (tmp_path / "agreements").rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    transport.unlock("held", "value")
    transport.free_slot("slots", "owner/1")
    transport.maintain()
    assert transport.take_tokens("bucket", 1e9, 5, 0).tokens == 0
    left = [path.name for path in (tmp_path / "agreements").rglob("*") if path.is_file()]
    assert left == ["revoked"]


def test_housekeeping_drops_what_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = prepared(tmp_path)
    leftover = tmp_path / "agreements" / "locks" / ".1-abc.tmp"
    leftover.write_bytes(b"")
    os.utime(leftover, (1.0, 1.0))
    boot_ns, wall_s, mono_s = clock.boot_ns(), clock.wall_s(), clock.mono_s()
    monkeypatch.setattr(clock, "boot_ns", lambda: boot_ns + int(3 * 3600e9))
    monkeypatch.setattr(clock, "wall_s", lambda: wall_s + 3 * 3600.0)
    monkeypatch.setattr(clock, "mono_s", lambda: mono_s + 3 * 3600.0)
    transport.maintain()
    assert [path for path in (tmp_path / "agreements").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0 * 365])
def test_setting_the_wall_clock_neither_ends_nor_prolongs_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    transport = prepared(tmp_path)
    wall_s, boot_ns = clock.wall_s(), clock.boot_ns()
    monkeypatch.setattr(clock, "wall_s", lambda: wall_s + step_s)
    assert transport.locked("held") == "value"
    monkeypatch.setattr(clock, "boot_ns", lambda: boot_ns + int((LONG_S + 1) * 1e9))
    assert transport.locked("held") is None


@pytest.mark.parametrize(
    ("step_s", "holds"), [(60.0, True), (-60.0, True), (LONG_S + 1, False), (-1e6, False)]
)
def test_a_lock_outlives_a_start_of_the_machine_and_no_clock_that_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float, holds: bool
) -> None:
    transport = prepared(tmp_path)
    wall_s = clock.wall_s()
    monkeypatch.setattr(clock, "boot_id", lambda: "another")
    monkeypatch.setattr(clock, "boot_ns", lambda: 1)
    monkeypatch.setattr(clock, "wall_s", lambda: wall_s + step_s)
    assert transport.locked("held") == ("value" if holds else None)
    assert transport.take_tokens("bucket", SLOW, 5, 5).tokens == 5
    assert [transport.take_slot("slots", 1, "worker", "owner/2")] == [True], "its lease is of another start"
    assert transport.revoked() == (["first"] if holds else [])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"span": 3}', b'{"value": 1, "span": [1, "x", 2, 3]}', b"\xff" * 10]
)
def test_a_damaged_file_blocks_nobody(tmp_path: Path, content: bytes) -> None:
    transport = prepared(tmp_path)
    for kind, name in (("locks", "held"), ("slots", "slots"), ("buckets", "bucket")):
        (tmp_path / "agreements" / kind / name).write_bytes(content)
    (tmp_path / "agreements" / "revoked").write_bytes(b"0\n" + content + b"\n")
    assert transport.lock("held", "mine", LONG_S) is None
    assert transport.take_slot("slots", 1, "worker", "owner/9") is True
    assert transport.take_tokens("bucket", SLOW, 5, 5).tokens == 5
    assert transport.revoked() == []
    transport.revoke(["again"], LONG_S)
    assert transport.revoked() == ["again"]


@pytest.mark.parametrize("foreign", ["link", "directory", "fifo"])
def test_what_does_not_belong_there_goes_to_quarantine(tmp_path: Path, foreign: str) -> None:
    transport = prepared(tmp_path)
    make = {
        "link": lambda path: os.symlink("/etc/passwd", path),
        "directory": os.mkdir,
        "fifo": os.mkfifo,
    }[foreign]
    paths = [
        tmp_path / "agreements" / one for one in ("locks/held", "slots/slots", "buckets/bucket", "revoked")
    ]
    for path in paths:
        path.unlink()
        make(path)
    assert transport.lock("held", "mine", LONG_S) is None
    assert transport.take_slot("slots", 1, "worker", "owner/9") is True
    assert transport.take_tokens("bucket", SLOW, 5, 5).tokens == 5
    transport.revoke(["again"], LONG_S)
    assert transport.revoked() == ["again"]
    assert sum("quarantined" in line for line in transport.maintain()) == 4


def test_the_list_of_revocations_stays_bounded(tmp_path: Path) -> None:
    transport = FilesystemTransport(tmp_path)
    path = tmp_path / "agreements" / "revoked"
    largest = 0
    for number in range(40):
        transport.revoke([f"{number % 3}-{index:05d}-" + "x" * 40 for index in range(200)], LONG_S)
        largest = max(largest, path.stat().st_size)
    assert len(transport.revoked()) == 600
    assert largest < 2 * 600 * 100 + (300 << 10)
    transport.revoke([f"{index}" for index in range(REVOKED_MAX + 5)], LONG_S)
    assert len(transport.revoked()) == REVOKED_MAX
    assert transport.revoked()[0] == "5"


def test_a_line_that_was_cut_short_hides_no_other(tmp_path: Path) -> None:
    transport = prepared(tmp_path)
    path = tmp_path / "agreements" / "revoked"
    path.write_bytes(path.read_bytes() + b'["cut", 17')
    assert transport.revoked() == ["first"]
    transport.revoke(["next"], LONG_S)
    assert transport.revoked() == ["first", "next"]
