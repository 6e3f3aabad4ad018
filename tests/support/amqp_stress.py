"""Workers on a RabbitMQ of the session, each test in a virtual host of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amqp

from prefork.transports.errors import TransportError
from prefork.transports.url import parse
from support.ledger import START, Execution, Findings, boot_ns, check
from support.rabbitmq_server import RabbitMQ
from support.stress_worker import QUEUE, Site
from support.waiting import eventually

BACK_S = 5.0
"""How soon after an outage a worker must consume again."""
# Declaring the 35 queues of the ladder as quorum queues takes a second.
LADDER = {"broker_native_delayed_delivery_queue_type": "classic"}


class AmqpSite(Site):
    """A site whose broker is a virtual host; results are in files, unless another store is given.

    :ivar doubtful: ids of messages that the broker may or may not have accepted.
    """

    def __init__(
        self,
        root: Path,
        server: RabbitMQ,
        *,
        url: str | None = None,
        results: str | None = None,
        **settings: Any,
    ) -> None:
        self.server = server
        self.doubtful: list[str] = []
        self.vhost = (url or server.vhost_url()).rpartition("/")[2]
        super().__init__(
            root,
            url or f"amqp://guest:guest@127.0.0.1:{server.port}/{self.vhost}",
            results=results or f"filesystem://{root}/broker",
            **{**LADDER, **settings},
        )

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of plain py-amqp, for what somebody else does to the broker."""
        found = parse(self.url)
        connection = amqp.Connection(
            f"127.0.0.1:{self.server.port}",
            userid=found.user,
            password=found.password,
            virtual_host=self.vhost,
        )
        connection.connect()
        try:
            yield connection.channel()
        finally:
            connection.close()

    def consumes(self, within_s: float = BACK_S) -> float:
        """Send a task, as soon as that is possible, and wait for its start; returns the seconds."""
        begun_ns = boot_ns()
        task_id = eventually(self.try_send, deadline_s=within_s, every_s=0.05)
        left_s = within_s - (boot_ns() - begun_ns) / 1e9
        return (self.started(task_id, left_s).start_ns - begun_ns) / 1e9

    def resumes(self, within_s: float = BACK_S) -> None:
        """Wait until some task starts again, if any is left to start."""
        begun_ns = boot_ns()

        def again() -> bool:
            ledger = self.ledger.read()
            later = any(one.kind == START and one.boot_ns > begun_ns for one in ledger.records[-50:])
            return later or ledger.finished >= set(self.accepted)

        eventually(again, deadline_s=within_s)
        print(f"consumes again after {(boot_ns() - begun_ns) / 1e6:.0f} ms")

    def try_send(self, seconds: float = 0.0) -> str | None:
        """Send a task of such a length; None if the broker does not take it now."""
        task_id = str(uuid.uuid4())
        try:
            return self.send("work", seconds, retry=False, task_id=task_id)
        except TransportError:
            self.doubtful.append(task_id)
            return None

    def judged(self, **how: Any) -> Findings:
        """What the ledger proves; what was perhaps accepted counts as accepted if it ran."""
        runs = self.ledger.executions()
        ran = {run.task_id for run in runs}
        found = check([*self.accepted, *(ran & set(self.doubtful))], runs, self.kills, **how)
        print(f"{found}, kills {len(self.kills)}")
        return found

    def starts(self, task_id: str) -> list[Execution]:
        """Every execution of a task so far."""
        return [run for run in self.ledger.executions() if run.task_id == task_id]

    def counts(self) -> dict[str, int]:
        """By queue: its messages, ready and held, as the broker counts them."""
        lines = self.server.control(
            "list_queues", "--vhost", self.vhost, "--no-table-headers", "name", "messages"
        )
        rows = (line.split("\t") for line in lines.splitlines() if "\t" in line)
        return {name: int(count) for name, count in rows}

    def empty(self, within_s: float = 10.0) -> None:
        """Wait until the broker has nothing of this site any more: not ready, not held, not delayed."""

        def left() -> bool:
            return not any(count for name, count in self.counts().items() if not name.startswith("prefork.e"))

        eventually(left, deadline_s=within_s, every_s=0.3)


def arguments_of(site: AmqpSite, queue: str = QUEUE) -> str:
    """Name, type, durability and arguments of a queue, as the broker tells them."""
    lines = site.server.control(
        *("list_queues", "--vhost", site.vhost, "--no-table-headers"),
        *("name", "type", "durable", "auto_delete", "arguments"),
    )
    return next(line for line in lines.splitlines() if line.split("\t")[0] == queue)
