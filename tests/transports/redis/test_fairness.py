"""That every so many messages another priority has its turn, however many steps the server's lists have."""

from __future__ import annotations

import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.engine.child.picking import Picker
from prefork.transports.base import Outcome, Outgoing
from prefork.transports.redis import open_transport
from support.redis_server import RedisServer

ROUNDS = 10


@settings(max_examples=60, deadline=None)
@given(
    steps=st.sets(st.integers(1, 9)).map(lambda others: [0, *sorted(others)]),
    place=st.integers(0, 8),
    fairness=st.integers(2, 12),
    limit=st.integers(1, 20),
)
def test_of_so_many_messages_exactly_one_is_of_another_step_than_the_best(
    shared_redis: RedisServer, steps: list[int], place: int, fairness: int, limit: int
) -> None:
    # Given two priorities with messages enough, or only one when no more are told apart,
    others = steps[1:]
    other = others[place % len(others)] if others else 0
    options = {"global_keyprefix": f"t{uuid.uuid4().hex[:12]}:", "priority_steps": steps}
    transport = open_transport(shared_redis.url, options)
    total = ROUNDS * fairness
    try:
        transport.send([Outgoing("q", b"", one) for one in {0, other} for _ in range(total)])
        consumer = transport.consumer(["q"], "owner", "worker")
        picker = Picker(consumer, None, fairness)
        # When so many are taken,
        taken: list[int] = []
        while len(taken) < total:
            found = picker.reserve(min(limit, total - len(taken)))
            taken += [one.priority for one in found]
            consumer.settle([Outcome(one.tag) for one in found])
        consumer.close()
    finally:
        transport.close()
    # Then one of each round is the other one.
    expected = 1 if other else 0
    for begin in range(0, total, fairness):
        assert sum(map(bool, taken[begin : begin + fairness])) == expected, taken
