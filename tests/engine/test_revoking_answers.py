"""What follows from what workers answer to a revocation."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine.revoking_answers import never_run, silent


def said(worker: str, *running: str) -> dict[str, Any]:
    return {"ok": "flagged as revoked", "worker": worker, "may_run": list(running)}


@pytest.mark.parametrize(
    ("workers", "answers", "expected"),
    [
        ([], [], ["a", "b"]),
        (["w"], [said("w")], ["a", "b"]),
        (["w"], [said("w", "a")], ["b"]),
        (["w", "v"], [said("w", "a"), said("v", "b")], []),
        (["w", "v"], [said("w")], []),
        (["w"], [said("v")], []),
        (["w"], [said("w"), said("new", "b")], ["a"]),
        (["w"], [{"ok": "tasks {...} flagged as revoked"}], []),
        (["w"], [{"error": "no such signal"}, None, 7, "w"], []),
        (["w"], [{"worker": "w", "may_run": "a"}, {"worker": ["w"], "may_run": []}], []),
        (["w"], [{"worker": "w", "may_run": [["a"], 3, "b"]}], ["a"]),
    ],
)
def test_a_task_never_runs_when_everybody_says_so(
    workers: list[str], answers: list[Any], expected: list[str]
) -> None:
    assert never_run(["a", "b"], workers, answers) == expected


def test_who_has_not_answered_is_known() -> None:
    assert silent(["w", "v"], [said("v"), {"ok": "theirs"}]) == {"w"}
