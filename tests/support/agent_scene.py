"""One child's slot and messages on the memory broker, and what the agent makes of them."""

from __future__ import annotations

import logging
from typing import Any

from prefork.engine.agent.recovery import Recoverer
from prefork.engine.app import App
from prefork.engine.child.plan import RunPlan
from prefork.engine.child.readahead import Kind
from prefork.engine.result_document import decode
from prefork.engine.scoreboard import (
    C_BATCH,
    C_CURSOR,
    C_HELD,
    C_POLICY,
    C_RUNNING,
    Policy,
    Scoreboard,
    Slot,
)
from prefork.engine.settling import Settler, encode_outcome
from prefork.engine.storage import Storage
from prefork.transports.base import Delivery, Outcome, Outgoing, StoredResult
from support.faulty import Faulty
from support.one_child import WORKER, link_of, loaded

CAUSE = "signal 9"


class Scene:
    """One child's slot and messages, and the agent that looks at them."""

    def __init__(self, app: App) -> None:
        self.app = app
        app.conf.result_backend = app.conf.broker_url

        @app.task
        def work(n):
            return n

        self.work = work
        self.board = Scoreboard()
        self.slot: Slot = self.board.slot(0)
        self.slot.clear(1)
        self.link = link_of(self.board)
        transport, store = app.client.transport, app.client.results
        self.transport, self.store = Faulty(transport), Faulty(store)
        settler = Settler(self.transport, self.store, together=True)  # type: ignore[arg-type]
        storage = Storage(self.transport, self.store, settler, app.client.table)  # type: ignore[arg-type]
        self.loaded = loaded(app)
        self.recoverer = Recoverer(self.link, self.loaded, storage, logging.getLogger("test"))
        self.consumer = transport.consumer(["celery"], f"{WORKER}.0.1", WORKER)

    def hold(self, n: int) -> list[Delivery]:
        """A batch that the child has reserved and announced."""
        for number in range(n):
            self.work.apply_async((number,), task_id=f"id-{number}")
        deliveries = self.consumer.reserve(n)
        self.slot.write_tags([delivery.tag for delivery in deliveries])
        self.slot.words[C_BATCH] += 1
        self.slot.words[C_HELD] = n
        return deliveries

    def reserved(self) -> Delivery:
        """The one message that waits, in a batch of its own."""
        delivery = self.consumer.reserve(1)[0]
        self.slot.write_tags([delivery.tag])
        self.slot.words[C_BATCH] += 1
        self.slot.words[C_HELD] = 1
        return delivery

    def run(self, delivery: Delivery, index: int = 0, **options: Any) -> None:
        """The child is in the middle of a task with these options."""
        for name, value in options.items():
            setattr(self.work, name, value)
        plan = RunPlan(self.work, self.loaded.config, Kind())
        self.slot.write_texts(f"id-{index}".encode(), plan.name_bytes, delivery.tag)
        ignored = Policy.IGNORE_RESULT if plan.ignore_result else 0
        self.slot.words[C_POLICY] = plan.policy_bits | ignored
        self.slot.words[C_CURSOR] = index + 1
        self.slot.words[C_RUNNING] = 1
        if not plan.acks.late:
            assert self.consumer.settle([Outcome(tag=delivery.tag)]) == [True]

    def dead(self, verdict: str = "crash", **fields: Any) -> dict[str, Any]:
        """The supervisor's report of a death, and the answer."""
        message = {
            "op": "dead",
            "slot": 0,
            "generation": 1,
            "verdict": verdict,
            "cause": CAUSE,
            "limit_s": 2.0,
        }
        answer = self.recoverer.carry_out(message | {"charge": True} | fields)
        self.recoverer.announce_some()  # as the agent does in its next turn
        return answer

    def recall(self, **fields: Any) -> dict[str, Any]:
        message = {"op": "recall", "slot": 0, "generation": 1, "batch": 1, "index": 1}
        return self.recoverer.carry_out(message | fields)

    def finished(self, delivery: Delivery, *, follow_up: bool = False) -> bytes:
        """An outcome of the child, as it lies in the outcome area."""
        task_id = f"id-{delivery.tag[-1]}"
        result = StoredResult(task_id, b'{"status":"SUCCESS","result":1,"task_id":"%s"}' % task_id.encode())
        follow_ups = (Outgoing("after", delivery.document),) if follow_up else ()
        return encode_outcome(Outcome(tag=delivery.tag, results=(result,), follow_ups=follow_ups))

    def depth(self, queue: str = "celery") -> tuple[int, int]:
        found = self.app.client.transport.depth(queue)
        return found.ready, found.in_work

    def crashes(self) -> list[int]:
        return [waiting.crashes for waiting in self.app.client.transport.peek("celery")]

    def state(self, task_id: str = "id-0") -> str | None:
        document = self.app.client.results.get([task_id])[0]
        return None if document is None else decode(document, self.app.client.table.by_name("json")).status
