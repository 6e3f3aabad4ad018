"""A world of one child, one agent and another worker, in which everybody can be stopped anywhere.

The child is the real loop on a real scoreboard and a real memory broker. Before every access to a
word that the claim protocol is made of, and before every call of the broker, it passes a gate; what
a schedule holds for that step happens there and then, as if the child had been stopped.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefork.engine.agent.recovery import Recoverer
from prefork.engine.app import App
from prefork.engine.child.loop import WorkerLoop
from prefork.engine.child.parts import Parts
from prefork.engine.message import parse
from prefork.engine.result_document import decode
from prefork.engine.scoreboard import S_MARK, Scoreboard, Slot, pack_mark
from prefork.engine.settling import Settler
from prefork.engine.storage import Storage
from prefork.engine.supervisor.deadlines import look
from prefork.transports.base import Delivery, Outcome, Outgoing
from prefork.transports.memory import MemoryResults, MemoryTransport
from support.gated_slot import GatedSlot, Step
from support.one_child import NODE, WORKER, LeaveWhenIdle, link_of, loaded, unlink
from support.waiting import DEADLINE_S, Background

QUEUE = "work"
AFTER = "after"


class Died(BaseException):
    """The process that runs this code does not exist any more."""


class GatedConsumer:
    """A consumer behind a gate, that writes down what is settled."""

    def __init__(self, world: World, consumer: Any, gate: Step) -> None:
        self._world = world
        self._consumer = consumer
        self._gate = gate

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        self._gate()
        deliveries: list[Delivery] = self._consumer.reserve(max_n, timeout_s)
        for delivery in deliveries:
            self._world.ids[delivery.tag] = self._world.id_of(delivery.document)
        return deliveries

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        self._gate()
        answers: list[bool] = self._consumer.settle(outcomes)
        self._world.settled.update(
            self._world.ids[outcome.tag] for outcome, done in zip(outcomes, answers, strict=True) if done
        )
        return answers

    def give_back(self, tags: Sequence[bytes]) -> int:
        self._gate()
        return int(self._consumer.give_back(tags))

    def fetch(self, tag: bytes) -> Delivery | None:
        return self._consumer.fetch(tag)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._consumer.close()


class GatedTransport(MemoryTransport):
    """Gives the agent gated consumers."""

    world: World
    gate: Step

    def attach(self, owner: str) -> Any:
        return GatedConsumer(self.world, super().attach(owner), self.gate)


class AlwaysShort:
    """Read-ahead that holds a fixed number of messages, all of them known to be short."""

    short = True
    average_s = 0.0001

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def kind(self, task_name: str) -> AlwaysShort:
        return self

    def add(self, runtime_s: float) -> None:
        """The kind stays what it is."""

    def limit(self) -> int:
        return self._limit

    def batch_done(self, names: int, all_short: bool, slowest_average_s: float) -> None:
        """The limit stays what it is."""


class World:
    """What all simulations of one test share; `play` is one simulation.

    :param app: with the task ``work``, which calls `entered` with the id of its message.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.loaded = loaded(app)
        self.board = Scoreboard()
        self.link = link_of(self.board)
        self.link.scoreboard.slot(0)
        self.generation = 0
        self.documents: dict[str, bytes] = {}
        self.ids: dict[bytes, str] = {}
        self.runs: Counter[str] = Counter()
        self.settled: set[str] = set()
        self.again: list[str] = []
        self._transport = GatedTransport("recall-world")
        self._transport.world = self
        self._transport.gate = self._agent_gate
        self._store = MemoryResults("recall-world")
        settler = Settler(self._transport, self._store, together=True)
        self._storage = Storage(self._transport, self._store, settler, app.client.table)
        self._transport.heartbeat(WORKER, 1e9)
        # One simulation.
        self.steps = 0
        self.agent_steps = 0
        self.agent_dies_at = 0
        self.dead = False
        self._done_before_death: set[str] = set()
        self.request: dict[str, Any] | None = None
        self._schedule: dict[int, list[Step]] = {}
        self._in_child = False
        self._slot = self.board.slot(0)
        # A slow agent.
        self._agent: Background[None] | None = None
        self._agent_pauses_at = 0
        self._agent_goes_on = threading.Event()
        self._child_goes_on = threading.Event()

    def close(self) -> None:
        unlink(self.link)

    def id_of(self, document: bytes) -> str:
        return parse(document, self.app.client.table).id

    # --- gates --------------------------------------------------------------------------------------

    def gate(self) -> None:
        """The child is about to do something that others can see."""
        if not self._in_child:
            return
        if self.dead:
            raise Died
        self.steps += 1
        due = self._schedule.get(self.steps, ())
        if due:
            self._in_child = False
            for action in due:
                action()
            self._in_child = True
        if self.dead:
            raise Died

    def _agent_gate(self) -> None:
        self.agent_steps += 1
        if self.agent_steps == self.agent_dies_at:
            raise Died
        if self.agent_steps == self._agent_pauses_at:
            self._child_goes_on.set()
            self._agent_goes_on.wait(DEADLINE_S)

    def entered(self, task_id: str) -> None:
        """A task begins."""
        finished, was_dead = set(self.runs), self.dead
        try:
            self.gate()
        except Died:
            if not was_dead:
                self._done_before_death = finished
            raise
        self.runs[task_id] += 1
        if task_id in self.settled:
            self.again.append(task_id)

    # --- what others do -------------------------------------------------------------------------------

    def mark(self) -> None:
        """The supervisor has stopped the child and moves the recall mark."""
        view = look(self._slot)
        if self.request is None and view.has_recallable:
            self._slot.words[S_MARK] = pack_mark(view.batch, view.cursor)
            self.request = {
                "op": "recall",
                "slot": 0,
                "generation": self.generation,
                "batch": view.batch,
                "index": view.cursor,
            }

    def move(self, *, dies_at: int = 0) -> None:
        """The agent takes back what was recalled, or dies at one of its steps."""
        self.end_move()
        self._move(dies_at)

    def _move(self, dies_at: int = 0) -> None:
        if self.request is None:
            return
        self.agent_steps, self.agent_dies_at = 0, dies_at
        board = self.link.scoreboard
        slots = board._slots
        slots[0] = GatedSlot(self._slot, self._agent_gate)
        try:
            self._recoverer().carry_out(self.request)
        except Died:
            return
        finally:
            slots[0] = self._slot
            self.agent_dies_at = 0

    def begin_move(self, pauses_at: int) -> None:
        """The agent begins to take back, and is slow: the child goes on before it has finished."""
        if self.request is None or self._agent is not None:
            return
        self._agent_pauses_at = pauses_at
        self._child_goes_on.clear()
        self._agent_goes_on.clear()
        self._agent = Background(self._move_and_report)
        assert self._child_goes_on.wait(DEADLINE_S)

    def end_move(self) -> None:
        """The slow agent goes on to the end."""
        if self._agent is not None:
            self._agent_goes_on.set()
            self._agent.result()
            self._agent = None
            self._agent_pauses_at = 0

    def _move_and_report(self) -> None:
        try:
            self._move()
        finally:
            self._child_goes_on.set()

    def die(self) -> None:
        """The child is killed."""
        self.dead = True

    def steal(self) -> None:
        """Another worker takes and runs whatever is ready."""
        child = self._parts(Slot(self.board.buffer, 1), f"other.{self.generation}.{self.steps}", 8)
        child.slot.clear(1)
        WorkerLoop(child, LeaveWhenIdle(child.slot)).run()
        child.give_back()

    def recover(self) -> None:
        """The agent frees what the dead child held, one request after the other; it is asked twice."""
        self.end_move()
        message = {
            "op": "dead",
            "slot": 0,
            "generation": self.generation,
            "verdict": "crash",
            "cause": "test",
        }
        for _ in range(2):
            self._recoverer().carry_out(message)

    def _recoverer(self) -> Recoverer:
        recoverer = Recoverer(self.link, self.loaded, self._storage, logging.getLogger("test"))
        recoverer._max_crashes = 100
        return recoverer

    # --- one simulation -----------------------------------------------------------------------------

    def play(self, schedule: dict[int, list[Step]], *, messages: int, limit: int) -> int:
        """Run a schedule to the end and check what came of it; returns how many steps there were."""
        self._reset(schedule, messages)
        slot = GatedSlot(self._slot, self.gate)
        parts = self._parts(slot, f"{WORKER}.0.{self.generation}", limit)
        parts.consumer = GatedConsumer(self, parts.consumer, self.gate)  # type: ignore[assignment]
        self._in_child = True
        try:
            WorkerLoop(parts, LeaveWhenIdle(self._slot)).run()
        except Died:
            self._in_child = False
            self.recover()
        else:
            self._in_child = False
            parts.give_back()
        self.end_move()
        self.move()  # late, and in vain
        self.steal()
        self._check(messages)
        return self.steps

    def _reset(self, schedule: dict[int, list[Step]], messages: int) -> None:
        self.generation += 1
        self.steps = 0
        self.dead = False
        self._done_before_death = set()
        self.request = None
        self._schedule = schedule
        self._slot.clear(self.generation)
        for seen in (self.ids, self.runs, self.settled, self.again):
            seen.clear()  # type: ignore[attr-defined]
        self._transport.purge(AFTER)
        ids = list(self.documents)[:messages]
        self._store.forget(ids)
        self._transport.send([Outgoing(QUEUE, self.documents[task_id]) for task_id in ids])

    def _parts(self, slot: Slot, owner: str, limit: int) -> Parts:
        parts = Parts(
            self.loaded,
            self._storage,
            slot,
            self.board.words,
            doorbell_fd=self.link.doorbell_fd,
            node=NODE,
            owner=owner,
            worker_id=WORKER,
        )
        parts.read_ahead = AlwaysShort(limit)  # type: ignore[assignment]
        return parts

    def _check(self, messages: int) -> None:
        ids = list(self.documents)[:messages]
        assert self.again == [], "a message ran again after it was settled"
        depth = self._transport.depth(QUEUE)
        assert (depth.ready, depth.in_work) == (0, 0), "a message is left"
        assert list(self._transport.dead_letters()) == []
        serializer = self.app.client.table.by_name("json")
        for task_id, document in zip(ids, self._store.get(ids), strict=True):
            assert document is not None, "a message was lost"
            assert decode(document, serializer).status == "SUCCESS"
            assert decode(document, serializer).result == task_id
        followed = Counter(
            parse(one.document, self.app.client.table).parent_id for one in self._transport.peek(AFTER, 100)
        )
        assert followed == Counter(ids), "follow-ups are not what they should be"
        for task_id in self._done_before_death:
            assert self.runs[task_id] == 1, "the child died in one task, and another that was done ran again"
        most = 2 if self.dead else 1
        assert all(1 <= self.runs[task_id] <= most for task_id in ids), f"runs: {self.runs}"
