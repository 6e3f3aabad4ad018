"""Workers and clients of both makes on one virtual host of RabbitMQ."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from support.celery_worker import FleetWorker
from support.fleet_app import MAKES, make_app
from support.ledger import Kill, Ledger, boot_ns
from support.waiting import eventually

DEADLINE_S = 60.0


class AmqpFleet:
    """Both makes with the same settings; what runs is in the ledger.

    :param url: of an empty virtual host.
    :ivar sent_ns: when each accepted task was sent, on the clock of the ledger.
    """

    def __init__(self, root: Path, url: str, **settings: Any) -> None:
        self.root = root
        self.ledger = Ledger(root / "ledger")
        self.settings: dict[str, Any] = {
            "broker_url": url,
            "result_backend": None,
            "task_ignore_result": True,
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "worker_prefetch_multiplier": 1,
            **settings,
        }
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
        mine = {"task_max_crashes": 1000} if make == "prefork" else {}
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
        """End all processes of a worker just after one of them has begun a task; False if none had."""
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
            raise AssertionError(f"{len(missing)} not finished: {missing[:5]}\n{logs}") from None

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        for client in self.clients.values():
            client.close()
