"""A child's loop in this process: real application, real memory broker, real scoreboard."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from prefork.engine.app import App
from prefork.engine.boot import BootSpec
from prefork.engine.child.loop import WorkerLoop
from prefork.engine.child.parts import Parts
from prefork.engine.limits.board import RateBoard
from prefork.engine.loaded_app import Loaded, worker_options
from prefork.engine.process_link import ProcessLink, channel_pair
from prefork.engine.scoreboard import S_STOP, Scoreboard, Slot, Stop
from prefork.engine.storage import Storage, open_storage

WORKER = "worker-1"
NODE = "worker@host"


def loaded(app: App, **options: Any) -> Loaded:
    """What a template would have made of an application."""
    app.finalize(auto=True)
    config = app.conf.resolve()
    spec = BootSpec(app="tests")
    return Loaded(app, config, worker_options(spec, app, config) | options, NODE)


def link_of(board: Scoreboard) -> ProcessLink:
    """A link whose channel's other end is closed."""
    ours, theirs = channel_pair()
    theirs.close()
    doorbell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    pidfd = os.pidfd_open(os.getpid())
    return ProcessLink(board, ours, doorbell_fd, os.getpid(), pidfd, BootSpec(app="tests"), NODE, WORKER)


def unlink(link: ProcessLink) -> None:
    """Close what `link_of` opened."""
    link.channel.close()
    os.close(link.doorbell_fd)
    os.close(link.supervisor_pidfd)


class LeaveWhenIdle:
    """Tells the child to leave as soon as there is nothing to do."""

    def __init__(self, slot: Slot, before: Callable[[], bool] = lambda: False) -> None:
        self._slot = slot
        self._before = before
        self.waits = 0

    def before_looking(self) -> int:
        """Nothing to remember."""
        return 0

    def wait(self, token: int) -> None:
        """Leave, unless `before` has found something more to do."""
        self.waits += 1
        if not self._before():
            self._slot.words[S_STOP] = Stop.LEAVE

    def worked(self) -> None:
        """Nothing to remember."""


class OneChild:
    """A child that is no process.

    :param wrap: puts something around consumer or store of the transport (faults, hand-over points).
    """

    def __init__(
        self,
        app: App,
        *,
        generation: int = 1,
        board: Scoreboard | None = None,
        slot: Slot | None = None,
        storage: Storage | None = None,
        replaceable: bool = True,
        **options: Any,
    ) -> None:
        self.app = app
        self.board = Scoreboard() if board is None else board
        self.slot = self.board.slot(0) if slot is None else slot
        self.slot.clear(generation)
        self.storage = open_storage(app) if storage is None else storage
        self.doorbell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.loaded = loaded(app, **options)
        self.parts = Parts(
            self.loaded,
            self.storage,
            self.slot,
            self.board.words,
            doorbell_fd=self.doorbell_fd,
            node=NODE,
            owner=f"{WORKER}.0.{generation}",
            worker_id=WORKER,
            replaceable=replaceable,
            rates=RateBoard(self.board),
        )
        self.idle = LeaveWhenIdle(self.slot)

    @property
    def words(self) -> memoryview:
        """The words of the slot."""
        return self.slot.words

    def run(self, *, stream: bool = False) -> int:
        """Run until nothing is left to do; returns the exit code.

        :param stream: the broker may push while a batch runs, as to a child that somebody recalls from.
        """
        self.words[S_STOP] = Stop.RUN
        loop = WorkerLoop(self.parts, self.idle)
        if stream:
            loop.stream()
        return loop.run()

    def close(self) -> None:
        """Release the descriptor; the application closes the rest."""
        os.close(self.doorbell_fd)
