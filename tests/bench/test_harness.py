"""The harness counts right: tiny sizes, no verdict on speed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.contestants import APPS, Contestant, Huey, Prefork
from bench.footprint import latency_ms
from bench.machine import file_system, has_journal, wait_until_quiet
from bench.plan import Backlog, Figures, Size, Speeds, Weight
from bench.records import Records, Summary, cost_us, percentile, rate
from bench.report import HUEY, HUEY_TUNED, HUEY_TUNED_FSYNC, PREFORK, PREFORK_FSYNC, embedded_section, rows


@pytest.mark.parametrize("results", [False, True], ids=["results off", "results on"])
@pytest.mark.parametrize("contestant", [Prefork, Huey])
def test_a_round_is_measured_when_every_message_ran_once(
    contestant: type[Contestant], results: bool, tmp_path: Path
) -> None:
    options = {"tuned": True, "fsync": "0"} if contestant is Huey else {"fsync": False}
    measured = contestant(**options, results=results).measure(tmp_path, 150)  # type: ignore[arg-type]
    assert measured.enqueue > 0
    assert measured.drain > 0
    counts = [int.from_bytes(p.read_bytes()[:8], "little") for p in (tmp_path / "round/records").iterdir()]
    assert sum(counts) == 150


def test_every_send_has_its_latency(tmp_path: Path) -> None:
    p50_ms, p99_ms = latency_ms(tmp_path, 10, 0.005)
    assert 0 < p50_ms <= p99_ms


def recorded(records: Records, *values: int, capacity: int = 8) -> None:
    """Have another process record these values."""
    code = f"import recorder; r = recorder.from_environment(); [r.add(v) for v in {list(values)!r}]"
    environ = {
        **os.environ,
        "BENCH_RECORDS": str(records.directory),
        "BENCH_CAPACITY": str(capacity),
    }
    subprocess.run([sys.executable, "-c", code], cwd=APPS, env=environ, check=True, stderr=subprocess.DEVNULL)


def test_records_of_several_processes_are_read_as_one(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    recorded(records, 30, 10)
    recorded(records, 20)
    assert records.count() == 3
    assert records.values() == [10, 20, 30]


def test_a_process_cannot_record_more_than_it_was_given_room_for(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    with pytest.raises(subprocess.CalledProcessError):
        recorded(records, 1, 2, 3, capacity=2)
    assert records.values() == [1, 2]


def test_a_message_that_ran_twice_spoils_the_round(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    recorded(records, 1, 2, 3)
    with pytest.raises(RuntimeError, match="some ran twice"):
        records.wait(2, 1.0, lambda: True)


def test_a_worker_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    recorded(records, 1)
    with pytest.raises(RuntimeError, match="1 of 2 tasks ran"):
        records.wait(2, 60.0, lambda: False)


def test_the_rate_counts_from_the_first_execution_to_the_last() -> None:
    assert rate([0, 500_000_000, 1_000_000_000]) == 2.0


def test_the_cost_is_that_of_all_processes_without_their_beginnings() -> None:
    slow = [0, 900_000, *(1_000_000 + 30_000 * n for n in range(11))]
    fast = [0, 900_000, *(1_000_000 + 10_000 * n for n in range(11))]
    assert cost_us([slow, fast, [5, 6]], warm_up=2) == pytest.approx(20.0)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([3.0], 99) == 3.0


def test_file_systems_in_memory_are_told_from_disks() -> None:
    assert file_system(Path("/proc")) == "proc"
    assert not has_journal(Path("/proc"))


def test_waiting_for_a_quiet_machine_ends() -> None:
    assert wait_until_quiet(below=0.0, within_s=0.0) >= 0.0


def _figures(prefork_drain: float) -> Figures:
    def speeds(drain: float) -> Speeds:
        return Speeds(Summary.of([10.0 * drain]), Summary.of([drain]))

    one = {PREFORK: speeds(prefork_drain), PREFORK_FSYNC: speeds(prefork_drain)}
    one |= {name: speeds(100.0) for name in (HUEY, HUEY_TUNED, HUEY_TUNED_FSYNC)}
    low = Summary.of([1.0])
    backlogs = [Backlog(1_000, low, low), Backlog(2_000, Summary.of([1.5]), Summary.of([1.1]))]
    return Figures(one, one, (1.0, 2.0), Summary.of([0.5]), Weight(40.0, 9.0, 6.0), (low, low), backlogs)


def test_targets_are_met_or_missed_by_the_ratio_of_the_medians() -> None:
    met = {row.what: row.met for row in rows(_figures(500.0))}
    missed = {row.what: row.met for row in rows(_figures(499.0))}
    what = "drain, results off, both with their defaults"
    assert met[what]
    assert not missed[what]


def test_a_cost_that_grows_with_the_backlog_is_missed() -> None:
    flat = {row.what.split(":")[0]: row.met for row in rows(_figures(500.0)) if "backlogs" in row.what}
    assert flat == {"drain": True, "enqueue": False}


def test_the_page_lists_what_falls_short() -> None:
    text = embedded_section(_figures(100.0), {"CPU": "one"}, Size(), (0.1, 0.2))
    short = text.partition("## What falls short")[2]
    assert "* drain, results off, both with their defaults: 1.0×, where ≥ 5× is wanted." in short
    assert "worker ready" not in short
