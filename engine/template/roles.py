"""What a process does that has just been forked for a role; it never returns."""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import traceback
from typing import NoReturn

from ...transports.url import redact
from .. import orphans
from ..agent.main import run as agent_run
from ..child.main import run as child_run
from ..linux import Linux
from ..loaded_app import Loaded
from ..process_link import ProcessLink


def run_child(link: ProcessLink, loaded: Loaded, slot: int, generation: int) -> NoReturn:
    """Be the child that holds a slot."""
    code = 1
    try:
        # Both the supervisor and the process itself do this, whoever comes first: a child that is
        # killed must take its own sub-processes along from its first moment on.
        os.setpgid(0, 0)
        os.environ[orphans.MARK] = orphans.mark(link.supervisor_pid, slot, generation)
        _await_supervisor(link)
        Linux().die_with_parent(link.supervisor_pid)
        code = child_run(link, loaded, slot, generation)
    except BaseException:
        _explain()
    finally:
        _leave(code)


def run_agent(link: ProcessLink, loaded: Loaded, channel: socket.socket) -> NoReturn:
    """Be the agent."""
    code = 1
    try:
        os.setpgid(0, 0)
        # When the supervisor dies the agent still has to clear up, then leaves.
        Linux().outlive_parent()
        code = agent_run(link, loaded, channel)
    except BaseException:
        _explain()
    finally:
        _leave(code)


def _explain() -> None:
    """Say what ends this process, whatever the log's level is."""
    logging.getLogger("prefork").critical("%s", redact(traceback.format_exc()))


def _await_supervisor(link: ProcessLink) -> None:
    """Wait until the intermediate process of the double fork has ended.

    Armed earlier, PDEATHSIG would fire when the intermediate process exits.
    """
    while os.getppid() != link.supervisor_pid:
        # Readable when the supervisor has died: then it never becomes the parent.
        if select.select([link.supervisor_pidfd], [], [], 0.0005)[0]:
            os._exit(1)


def _leave(code: int) -> NoReturn:
    # os._exit: the atexit handlers are the template's, not ours.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1  # a closed log must not keep the process
        except (ValueError, AttributeError):
            continue  # there is none, or the application has closed it: nothing is lost
    os._exit(code)
