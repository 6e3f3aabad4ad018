"""Limits per key: every tenant has a bucket of its own."""

from __future__ import annotations

from support.semantics import Fleet
from support.tokens import GATE, Gate, none_before_its_token
from support.waiting import eventually

CLOCKS_S = 0.1
"""How much too early a message may come back for its token."""

SOURCE = (
    """
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
    + GATE
)


def by_key(fleet: Fleet, run: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in fleet.notes(run):
        key, moment, _ = line.split()
        found.setdefault(key, []).append(float(moment))
    return {key: sorted(moments) for key, moments in found.items()}


def gate_of(fleet: Fleet) -> Gate:
    return Gate(fleet, 2 if fleet.several_processes else 1)


def check_rate(moments: list[float], since_s: float, per_s: float) -> None:
    """None before its token; what was booked may come as much earlier as clocks may differ."""
    none_before_its_token(moments, since_s - CLOCKS_S, per_s)


def test_each_key_has_its_own_rate(fleet: Fleet) -> None:
    run, gate = fleet.unique("tenants"), gate_of(fleet)
    with gate.shut():
        for number in range(12):
            for tenant in ("a", "b", "c"):
                fleet.task("per_tenant").delay(run, number, tenant=tenant)
    eventually(lambda: len(fleet.notes(run)) == 36, deadline_s=20)
    found = by_key(fleet, run)
    assert max(map(max, found.values())) - gate.opened_s < 2 * 12 / 10 + 3
    assert {key: len(moments) for key, moments in found.items()} == {"a": 12, "b": 12, "c": 12}
    for moments in found.values():
        check_rate(moments, gate.opened_s, 10)


def test_a_function_makes_the_key(fleet: Fleet) -> None:
    run, gate = fleet.unique("function"), gate_of(fleet)
    with gate.shut():
        for number in [1] * 24 + [2] * 4:
            fleet.task("by_function").delay(run, {"who": number})
    eventually(lambda: len(fleet.notes(run)) == 28, deadline_s=20)
    found = by_key(fleet, run)
    assert {key: len(moments) for key, moments in found.items()} == {"0": 4, "1": 24}
    for moments in found.values():
        check_rate(moments, gate.opened_s, 10)
    # With one bucket for both they would have come after all that was sent before them.
    assert max(found["0"]) < max(found["1"])


def test_a_retry_takes_a_token_of_its_own(fleet: Fleet) -> None:
    run, gate = fleet.unique("retried"), gate_of(fleet)
    with gate.shut():
        for number in range(3):
            fleet.task("retried").delay(run, number)
    eventually(lambda: len(fleet.notes(run)) == 9, deadline_s=20)
    (moments,) = by_key(fleet, run).values()
    check_rate(moments, gate.opened_s, 5)
