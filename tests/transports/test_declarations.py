"""Queues whose names say how they are declared."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.base import QueueDeclaration
from prefork.transports.declarations import COPY_EXPIRES_MS, copy_for, named, original

NEWS = QueueDeclaration(
    "news", exchange="news", exchange_type="fanout", auto_delete=True, arguments={"x-a": 1}, broadcast=True
)
DECLARED = {"news": NEWS, "plain": QueueDeclaration("plain", exchange="plain", routing_key="plain")}


def test_the_queue_of_one_worker_is_declared_as_celerys_workers_do() -> None:
    assert named("w@host.dq2", {}) == QueueDeclaration("w@host.dq2", exchange="C.dq2", routing_key="w@host")


def test_a_copy_is_bound_to_the_exchange_of_its_broadcast_and_expires() -> None:
    found = named("news~w@host", DECLARED)
    assert found is not None
    assert (found.name, found.exchange, found.exchange_type) == ("news~w@host", "news", "fanout")
    assert (found.auto_delete, found.durable, found.broadcast) == (False, True, False)
    assert found.arguments == {"x-expires": COPY_EXPIRES_MS, "x-a": 1}


def test_what_is_configured_is_what_it_says() -> None:
    odd = QueueDeclaration("odd.dq2", exchange="mine")
    assert named("odd.dq2", {"odd.dq2": odd}) == odd
    assert named("news", DECLARED) is NEWS


def test_other_names_say_nothing() -> None:
    assert named("plain~w@host", DECLARED) is None
    assert named("unknown~w@host", DECLARED) is None
    assert named("celery", DECLARED) is None


@given(queue=st.text(min_size=1), node=st.text("abcXYZ019_.@-", min_size=1))
def test_the_original_of_a_copy_is_found_whatever_its_name(queue: str, node: str) -> None:
    assert original(copy_for(queue, node)) == queue
