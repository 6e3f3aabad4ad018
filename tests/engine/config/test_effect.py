"""A setting that is said to have an effect is read by something."""

from __future__ import annotations

import re

import pytest

from prefork.engine.config import SETTINGS
from support.source_tree import ROOT


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every name in the program, outside the configuration itself."""
    found: set[str] = set()
    for folder in ("engine", "transports", "serializers"):
        for path in (ROOT / folder).rglob("*.py"):
            if ROOT / "engine" / "config" not in path.parents:
                found |= set(re.findall(r"[a-z][a-z0-9_]+", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("key", sorted(key for key, fact in SETTINGS.items() if fact.has_effect))
def test_a_setting_with_an_effect_is_read_somewhere(words: set[str], key: str) -> None:
    assert key in words


def test_a_setting_without_effect_says_why() -> None:
    reasons = {fact.no_effect for fact in SETTINGS.values() if not fact.has_effect}
    assert all(len(reason) > 10 and not reason.endswith(".") for reason in reasons)
