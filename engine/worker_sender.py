"""What receivers of worker signals get as the sender: the worker's name, which knows a little more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import App


class WorkerSender(str):
    """The node name of a worker, with what integrations read from the sender in Celery.

    Being text, it can be compared with a node name, and a receiver connected for a node name is told.

    :ivar app: the application.
    :ivar hostname: the node name as plain text.
    :ivar concurrency: how many child processes the worker was told to have.
    :ivar pid: of the process in which the signal is sent.
    """

    app: App
    hostname: str
    concurrency: int

    def __new__(cls, node: str, app: App, concurrency: int) -> WorkerSender:
        """Name a worker."""
        sender = super().__new__(cls, node)
        sender.app, sender.hostname, sender.concurrency = app, node, concurrency
        return sender

    @property
    def pid(self) -> int:
        """The process that asks."""
        return os.getpid()
