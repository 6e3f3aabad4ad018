"""The agent's process: set it up, open the broker, run the loop, leave."""

from __future__ import annotations

import faulthandler
import gc
import logging
import signal
import socket
import sys

from ..loaded_app import Loaded
from ..logs import enter_process
from ..process_link import ProcessLink
from ..storage import open_storage
from .loop import Agent

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


def run(link: ProcessLink, loaded: Loaded, channel: socket.socket) -> int:
    """Be the agent until told to stop, or until the supervisor dies; returns the exit code."""
    for number in _IGNORED:
        # They are for the supervisor, which says what to do; the terminal sends them to everybody.
        signal.signal(number, signal.SIG_IGN)
    if sys.__stderr__ is not None:
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    gc.enable()
    loaded.set_title("agent")
    enter_process("agent", node=link.node)
    storage = open_storage(loaded.app)
    try:
        return Agent(link, loaded, channel, storage, logging.getLogger("prefork.agent")).run()
    finally:
        storage.close()
