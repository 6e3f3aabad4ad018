"""Workers and clients of both makes on one broker, killed at work; what ran is in a ledger."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.celery_worker import FleetWorker
from support.fleet_app import MAKES, make_app
from support.ledger import Kill, Ledger, boot_ns
from support.waiting import eventually

DEADLINE_S = 60.0


class MixedFleet:
    """Both makes with the same settings.

    :param settings: of clients and workers; the broker is nobody else's.
    :param of_prefork: what prefork's workers alone are given besides.
    :param told: what else is to be known when tasks do not end.
    :ivar sent_ns: when each accepted task was sent, on the clock of the ledger.
    """

    def __init__(
        self,
        root: Path,
        settings: dict[str, Any],
        of_prefork: dict[str, Any],
        told: Callable[[], str] = str,
    ) -> None:
        self.root = root
        self.ledger = Ledger(root / "ledger")
        self.settings = settings
        self._of_prefork = of_prefork
        self._told = told
        self.clients = {make: make_app(make, self.settings) for make in MAKES}
        self.sent_ns: dict[str, int] = {}
        self.kills: list[Kill] = []
        self.workers: dict[str, FleetWorker] = {}

    @property
    def accepted(self) -> list[str]:
        """Ids of what was sent."""
        return list(self.sent_ns)

    def launch(self, make: str, *line: str, concurrency: int = 1) -> None:
        """Start a worker, and wait for nothing."""
        mine = self._of_prefork if make == "prefork" else {}
        worker = FleetWorker(
            *(self.root, make, make, {**self.settings, **mine}, "-c", str(concurrency), *line),
            FLEET_LEDGER=str(self.ledger.path),
        )
        self.workers[make] = worker
        worker.launch()

    def await_ready(self) -> None:
        """Wait until all workers are ready."""
        for worker in self.workers.values():
            worker.await_ready()

    def send(self, client: str, *args: Any, **options: Any) -> str:
        """Send `fleet.work`; returns its id."""
        before_ns = boot_ns()
        task_id = str(self.clients[client].tasks["fleet.work"].apply_async(args, **options).id)
        self.sent_ns[task_id] = before_ns
        return task_id

    def kill_at_work(self, make: str) -> bool:
        """End all processes of a worker just after one of them has begun a task; False if none had.

        At that moment a Celery worker on Redis pops nothing, for it holds what it may hold: between its pop
        and its note of it a message is nowhere, and would be lost by no fault of ours.
        """
        worker = self.workers[make]
        victims = worker.processes()

        def begun() -> bool:
            now_ns = boot_ns()
            running = self.ledger.read().running()
            return any(pid in running and now_ns - running[pid].boot_ns < 5_000_000 for pid in victims)

        try:
            eventually(begun, deadline_s=5.0, every_s=0.001)
            hit = True
        except AssertionError:
            hit = False
        for pid in victims:
            self.kills.append(Kill(pid, boot_ns()))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # its parent's death has ended it
        worker.kill()
        return hit

    def finished(self, ids: list[str] | None = None, within_s: float = DEADLINE_S) -> None:
        """Wait until these have ended; everything that was accepted, unless others are named."""
        wanted = set(self.accepted if ids is None else ids)
        try:
            eventually(lambda: wanted <= self.ledger.read().finished, deadline_s=within_s, every_s=0.02)
        except AssertionError:
            missing = sorted(wanted - self.ledger.finished)
            logs = "\n".join(worker.log[-3000:] for worker in self.workers.values())
            raise AssertionError(
                f"{len(missing)} not finished: {missing[:5]}\n{self._told()}\n{logs}"
            ) from None

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        for client in self.clients.values():
            client.close()
