"""Children and an agent that import the application themselves (worker_start_method = fresh).

Used when the template cannot be forked from: the application started threads or opened sockets
while it was imported. The supervisor forks these processes itself.
"""

from __future__ import annotations

import os
import socket
import traceback
from typing import NoReturn

from ...transports.url import redact
from ..loaded_app import Loaded, load
from ..process_link import ProcessLink
from ..scoreboard import C_STATE, State
from . import roles
from .main import EXIT_BOOT_FAILED


def child(link: ProcessLink, slot: int, generation: int) -> NoReturn:
    """Be the child of a slot, after loading the application."""
    try:
        loaded = load(link)
    except BaseException:
        board_slot = link.scoreboard.slot(slot)
        board_slot.write_report(redact(traceback.format_exc()))
        board_slot.words[C_STATE] = State.BOOT_FAILED
        os._exit(EXIT_BOOT_FAILED)
    roles.run_child(link, loaded, slot, generation)


def agent(link: ProcessLink, channel: socket.socket) -> NoReturn:
    """Be the agent, after loading the application."""
    roles.run_agent(link, _loaded(link), channel)


def _loaded(link: ProcessLink) -> Loaded:
    try:
        return load(link)
    except BaseException:
        os.write(2, redact(traceback.format_exc()).encode("utf-8", "backslashreplace"))
        os._exit(EXIT_BOOT_FAILED)
