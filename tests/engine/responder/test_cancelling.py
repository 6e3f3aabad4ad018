"""Commands that revoke: what they refuse, and what they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prefork.engine.responder import cancelling
from prefork.engine.responder.cancelling import IDS_MAX
from prefork.engine.revoker import Revoked


class Remembering:
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def revoke(self, ids: Any, **_: Any) -> Revoked:
        self.asked.append(ids)
        return Revoked(list(ids), [])

    def revoke_by_stamped_headers(self, headers: Any, **_: Any) -> Revoked:
        self.asked.append(headers)
        return Revoked([str(one) for one in headers], [])


@pytest.fixture
def side() -> Any:
    return SimpleNamespace(revoker=Remembering())


@pytest.mark.parametrize(
    "headers",
    [
        ["a=1"] * (IDS_MAX + 1),
        {"a": ["1"] * IDS_MAX, "b": "2"},
        {f"a{number}": 1 for number in range(IDS_MAX + 1)},
    ],
    ids=["texts", "one header", "many headers"],
)
def test_more_stamps_than_a_worker_remembers_are_refused(side: Any, headers: Any) -> None:
    with pytest.raises(ValueError, match="50000 in one command"):
        cancelling.revoke_by_stamped_headers(side, headers)
    assert side.revoker.asked == []


def test_as_many_as_it_remembers_are_taken(side: Any) -> None:
    cancelling.revoke_by_stamped_headers(side, {"a": list(range(IDS_MAX))})
    assert len(side.revoker.asked) == 1


@pytest.mark.parametrize("terminate", [True, False])
def test_answers_and_logs_stay_short(side: Any, terminate: bool) -> None:
    many = [f"a={number}" for number in range(1000)]
    for headers in (many, ["a=" + "x" * 100_000], {"a": ["y" * 100_000]}):
        answer = cancelling.revoke_by_stamped_headers(side, headers, terminate=terminate)
        assert len(answer["ok"]) < 1000
    assert len(cancelling.revoke(side, ["z" * 100_000] * 20)["ok"]) < 5000


def test_a_short_answer_names_the_headers_as_peers_do(side: Any) -> None:
    answer = cancelling.revoke_by_stamped_headers(side, {"a": "1"})
    assert answer == {"ok": "headers {'a': '1'} flagged as revoked, but not terminated"}
