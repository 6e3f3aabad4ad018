"""What every part of the supervisor needs to know."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass

from ..boot import BootSpec
from ..process_link import ProcessLink
from ..scoreboard import Scoreboard
from .poller import Poller
from .spawn import Entries


@dataclass(frozen=True)
class Context:
    """One worker, as its supervisor sees it.

    :param doorbell_fd: eventfd that the other processes write to be looked at.
    :param own_pidfd: pidfd of the supervisor, for the other processes to watch.
    """

    spec: BootSpec
    entries: Entries
    scoreboard: Scoreboard
    poller: Poller
    log: logging.Logger
    node: str
    worker_id: str
    doorbell_fd: int
    own_pidfd: int

    def link(self, channel: socket.socket) -> ProcessLink:
        """The link of a process that is about to be forked."""
        return ProcessLink(
            scoreboard=self.scoreboard,
            channel=channel,
            doorbell_fd=self.doorbell_fd,
            supervisor_pid=os.getpid(),
            supervisor_pidfd=self.own_pidfd,
            spec=self.spec,
            node=self.node,
            worker_id=self.worker_id,
        )

    @property
    def inherited_fds(self) -> tuple[int, ...]:
        """Descriptors that every process of the worker keeps."""
        return self.doorbell_fd, self.own_pidfd, self.scoreboard.locks_fd, self.scoreboard.agent_bell_fd
