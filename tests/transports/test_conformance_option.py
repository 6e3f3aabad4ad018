"""The conformance suites can be pointed at a broker that somebody else registered."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.source_tree import ROOT


@pytest.mark.parametrize(
    ("url", "ran"),
    [("memory://pointed-at", "passed"), ("carrier://localhost", "UnsupportedTransport")],
)
def test_the_suites_run_against_the_broker_of_a_url(url: str, ran: str) -> None:
    suite = ROOT / "tests" / "transports" / "conformance" / "test_watch.py"
    command = [sys.executable, "-m", "pytest", "-q", str(suite), "--conformance-url", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, check=False)
    assert ran in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) is (ran == "passed")
    assert "[filesystem" not in done.stdout
