"""The agent's process: set it up, open the broker, run the loop, leave."""

from __future__ import annotations

import gc
import logging
import signal
import socket

from ..loaded_app import Loaded
from ..logs import enter_process
from ..process_link import ProcessLink
from ..process_signals import leave_signals_to_supervisor, show_stacks_on_request
from ..storage import open_storage
from .loop import Agent


def run(link: ProcessLink, loaded: Loaded, channel: socket.socket) -> int:
    """Be the agent until told to stop, or until the supervisor dies; returns the exit code."""
    leave_signals_to_supervisor()
    show_stacks_on_request()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    gc.enable()
    loaded.set_title("agent")
    enter_process("agent", node=link.node)
    storage = open_storage(loaded.app)
    try:
        return Agent(link, loaded, channel, storage, logging.getLogger("prefork.agent")).run()
    finally:
        storage.close()
