"""A worker in a thread of this process: the loop of a child and the housekeeping, as in ``-P solo``."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from prefork.engine.app import App
from prefork.engine.boot import BootSpec
from prefork.engine.child.loop import WorkerLoop
from prefork.engine.child.parts import Parts
from prefork.engine.child.solo import WatchWakes
from prefork.engine.housekeeping import Housekeeping
from prefork.engine.loaded_app import Loaded, worker_options
from prefork.engine.scoreboard import C_STATE, S_STOP, Scoreboard, State, Stop
from prefork.engine.storage import open_storage

LEAVE_S = 10.0

_log = logging.getLogger("prefork.tests")
_numbers = itertools.count(1)


class ThreadWorker:
    """Serves an application that must be open already, and stays open.

    :param queues: what it consumes; None for what the configuration says.
    :param log: what the program logs while the worker runs is appended to this file.
    :param settings: of the worker, on top of the configuration.
    """

    def __init__(self, app: App, *, log: Path, queues: list[str] | None = None, **settings: object) -> None:
        self.app = app
        self.node = f"thread{next(_numbers)}@host"
        self._log_path = log
        self._queues = queues or []
        self._settings = settings
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def start(self) -> ThreadWorker:
        """Start, and wait until the loop runs."""
        self._handler = logging.FileHandler(self._log_path)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("prefork").addHandler(self._handler)
        if self._settings:
            # The program's own client changes with it: not while another worker serves this application.
            self.app.conf.resolve(cli=self._settings)
        self.app.finalize(auto=True)
        config = self.app.config
        spec = BootSpec(app="tests", queues=self._queues)
        self._loaded = Loaded(self.app, config, worker_options(spec, self.app, config), self.node)
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._doorbell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._storage = open_storage(self.app)
        board = Scoreboard()
        self._slot = board.slot(0)
        self._slot.clear(1)
        self._keeping = self._housekeeping()
        self._keeping.renew()
        self._parts = Parts(
            self._loaded,
            self._storage,
            self._slot,
            board.words,
            doorbell_fd=self._doorbell_fd,
            node=self.node,
            owner=f"{self.node}.0.1",
            worker_id=self.node,
            replaceable=False,
        )
        for target in (self._work, self._keep):
            thread = threading.Thread(target=self._guarded, args=(target,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def _housekeeping(self) -> Housekeeping:
        config = self._loaded.config
        return Housekeeping(
            self._storage.transport,
            self.node,
            lease_s=config.worker_lease,
            renew_s=config.worker_lease_renew_interval,
            max_crashes=config.task_max_crashes,
            log=_log,
            on_renewed=lambda: None,
            on_promoted=lambda: None,
            on_lapsed=lambda recovery: None,
        )

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self._failures.append(error)

    def _work(self) -> None:
        transport = self._storage.transport
        idle = WatchWakes(transport, self._loaded.options["queues"], self._stop_fd, self._parts.consumer)
        self._slot.words[C_STATE] = State.IDLE
        try:
            WorkerLoop(self._parts, idle).run()
        finally:
            idle.close()

    def _keep(self) -> None:
        while not self._stopped.is_set():
            self._stopped.wait(self._keeping.turn())

    def stop(self) -> None:
        """Let the running task end, then leave; fails when the worker has failed or does not leave."""
        self._slot.words[S_STOP] = Stop.LEAVE
        os.eventfd_write(self._stop_fd, 1)
        self._stopped.set()
        for thread in self._threads:
            thread.join(LEAVE_S)
        alive = [thread for thread in self._threads if thread.is_alive()]
        logging.getLogger("prefork").removeHandler(self._handler)
        self._handler.close()
        assert not alive, f"still running after {LEAVE_S} s: {alive}"
        self._parts.give_back()
        self._storage.transport.unregister(self.node)
        os.close(self._stop_fd)
        os.close(self._doorbell_fd)
        if self._failures:
            raise self._failures[0]
