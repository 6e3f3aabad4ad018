"""Limits per key: every tenant has a bucket of its own."""

from __future__ import annotations

import time

from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
app = App("keyed", **SETTINGS)


@app.task(rate_limit="10/s", key="tenant", ignore_result=True)
def per_tenant(run, number, tenant="nobody"):
    note(run, f"{tenant} {time.monotonic()} {number}")


@app.task(rate_limit="10/s", key=lambda run, number: number["who"] % 2, ignore_result=True)
def by_function(run, number):
    note(run, f"{number['who'] % 2} {time.monotonic()} {number['who']}")


@app.task(rate_limit="5/s", key="{run}", bind=True, max_retries=3, ignore_result=True)
def retried(self, run, number):
    note(run, f"x {time.monotonic()} {number}")
    if self.request.retries < 2:
        self.retry(countdown=0)
"""


def by_key(fleet: Fleet, run: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in fleet.notes(run):
        key, moment, _ = line.split()
        found.setdefault(key, []).append(float(moment))
    return {key: sorted(moments) for key, moments in found.items()}


def check_rate(moments: list[float], per_s: float) -> None:
    """No more than the rate, and what makes up for takers that come late."""
    for width in range(1, len(moments)):
        for first, last in zip(moments, moments[width:]):
            # `width` tokens came in between, save the one that was there and 50 ms worth of them. What
            # was booked may start late, and the next one on time.
            assert last - first >= (width - 1) / per_s - 0.05 - 0.35, (width, last - first)


def test_each_key_has_its_own_rate(fleet: Fleet) -> None:
    run = fleet.unique("tenants")
    begun_s = time.monotonic()
    for number in range(12):
        for tenant in ("a", "b", "c"):
            fleet.task("per_tenant").delay(run, number, tenant=tenant)
    eventually(lambda: len(fleet.notes(run)) == 36, deadline_s=20)
    assert time.monotonic() - begun_s < 2 * 12 / 10 + 3
    found = by_key(fleet, run)
    assert {key: len(moments) for key, moments in found.items()} == {"a": 12, "b": 12, "c": 12}
    for moments in found.values():
        check_rate(moments, 10)
        assert moments[-1] - moments[0] >= 10 / 10 * 0.9


def test_a_function_makes_the_key(fleet: Fleet) -> None:
    run = fleet.unique("function")
    for number in range(12):
        fleet.task("by_function").delay(run, {"who": number})
    eventually(lambda: len(fleet.notes(run)) == 12, deadline_s=20)
    found = by_key(fleet, run)
    assert {key: len(moments) for key, moments in found.items()} == {"0": 6, "1": 6}
    for moments in found.values():
        check_rate(moments, 10)
    everything = sorted(moment for moments in found.values() for moment in moments)
    assert everything[-1] - everything[0] < 1.0  # one bucket for both would have taken longer


def test_a_retry_takes_a_token_of_its_own(fleet: Fleet) -> None:
    run = fleet.unique("retried")
    for number in range(3):
        fleet.task("retried").delay(run, number)
    eventually(lambda: len(fleet.notes(run)) == 9, deadline_s=20)
    (moments,) = by_key(fleet, run).values()
    assert moments[-1] - moments[0] >= 7 / 5 * 0.9
