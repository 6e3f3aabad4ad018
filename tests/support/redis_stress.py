"""A Redis server of its own for a fault test, with proxies between it and the workers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefork.engine.control_socket import ControlError
from support.ledger import Execution, boot_ns
from support.redis_server import RedisServer, running_redis
from support.stress_worker import Site, StressWorker
from support.tcp_proxy import TcpProxy

DOCUMENT = b'"properties"'
"""What every message has in it, and nothing else on these connections."""


class RedisSite(Site):
    """Workers reach the broker through `proxy`; the test itself reaches it directly.

    :ivar store_proxy: between the workers and the result store, when that is to be somewhere else.
    """

    def __init__(self, root: Path, server: RedisServer, proxy: TcpProxy) -> None:
        super().__init__(root, server.url)
        self.server = server
        self.proxy = proxy

    @property
    def proxied_url(self) -> str:
        """The broker's URL for workers."""
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    def worker(self, **given: Any) -> StressWorker:
        environ = {"STRESS_BROKER": self.proxied_url, **given.pop("environ", {})}
        return super().worker(environ=environ, **given)

    def consumes(self, within_s: float) -> float:
        """Send a task and wait until it starts; returns how long that took, in seconds."""
        sent_ns = boot_ns()
        return (self.started(self.send("work", 0.0), within_s).start_ns - sent_ns) / 1e9

    def starts(self, task_id: str) -> list[Execution]:
        """Every execution of a task so far."""
        return [run for run in self.ledger.executions() if run.task_id == task_id]


class CuttingProxy(TcpProxy):
    """Cuts connections just after the server has answered, and knows what the answer was.

    The reply is thrown away and the connection reset, once in `batches` replies that bring messages (those
    of a reserve), and once in `others` of the rest (those of a settle, mostly). Once in `requests` a request
    is thrown away instead, before the server has seen it. 0 never cuts.

    :ivar cut_batches: how many replies with messages were cut off.
    :ivar cut_others: how many others.
    :ivar cut_requests: how many requests.
    """

    def __init__(self, target: int | str, dice: random.Random) -> None:
        super().__init__(target)
        self._dice = dice
        self.batches = 0
        self.others = 0
        self.requests = 0
        self.cut_batches = 0
        self.cut_others = 0
        self.cut_requests = 0

    def _pass_on(self, pair: Any, target: Any, data: bytes, request: bool) -> bool:
        if request and self.requests and self._dice.randrange(self.requests) == 0:
            with self._lock:
                self.cut_requests += 1
            self._drop(pair, reset=True)
            return False
        if not request:
            brings = DOCUMENT in data
            every = self.batches if brings else self.others
            if every and self._dice.randrange(every) == 0:
                with self._lock:
                    self.cut_batches += brings
                    self.cut_others += not brings
                self._drop(pair, reset=True)
                return False
        return super()._pass_on(pair, target, data, request)


class Pulse:
    """Asks a supervisor for its statistics ten times a second, from a thread; the loop must answer.

    :ivar slowest_s: the longest answer so far; an answer that never came counts with its whole wait.
    :ivar unready: how many answers said that the worker is not ready.
    """

    def __init__(self, worker: StressWorker, every_s: float = 0.1) -> None:
        self._worker = worker
        self._every_s = every_s
        self._over = threading.Event()
        self.answers = 0
        self.slowest_s = 0.0
        self.unready = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            begun_s = time.monotonic()
            try:
                health = self._worker.ask("health")
            except (StopIteration, ControlError):
                health = {"ready": True}
            self.answers += 1
            self.unready += not health["ready"]
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10.0)


@contextmanager
def redis_site(
    root: Path,
    config: Mapping[str, str | int | Sequence[str]] | None = None,
    *,
    cutting: random.Random | None = None,
) -> Iterator[RedisSite]:
    """A site on a server of its own; nothing of it is alive afterwards.

    :param config: settings of the server.
    :param cutting: dice for a `CuttingProxy`; None for a proxy that does what it is told.
    """
    with running_redis(config) as server:
        proxy = CuttingProxy(server.port, cutting) if cutting is not None else TcpProxy(server.port)
        site = RedisSite(root, server, proxy)
        try:
            yield site
        finally:
            site.close()
            proxy.close()
