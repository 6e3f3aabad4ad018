"""The life of one child: set the process up, boot, run the loop, leave."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import traceback
from types import FrameType
from typing import Final

from ...transports.url import redact
from .. import signals as hooks
from ..exceptions import SoftTimeLimitExceeded
from ..loaded_app import Loaded
from ..logs import enter_process
from ..process_link import ProcessLink
from ..process_signals import show_stacks_on_request
from ..scoreboard import C_BODY, C_STATE, S_SOFT_TARGET, Slot, State
from ..shielding import held_off
from ..worker_names import owner as owner_name
from .choosing import loop_of
from .driving import Driver
from .idle import idle_of
from .loop import EXIT_AS_TOLD
from .parts import build
from .returner import Returner

EXIT_BOOT_FAILED: Final = 3
_OOM_SCORE_ADJ: Final = b"300"


def run(link: ProcessLink, loaded: Loaded, slot_index: int, generation: int) -> int:
    """Be the child of a slot until told to leave; returns the exit code.

    The process is already in its own group and dies with the supervisor.
    """
    slot = link.scoreboard.slot(slot_index)
    slot.words[C_STATE] = State.BOOTING
    try:
        _set_up_process()
        enter_process(f"child {slot_index}", node=link.node, index=slot_index + 1)
        owner = owner_name(link.worker_id, slot_index, generation)
        parts = build(link, loaded, slot, owner)
        arm_soft_limit(slot, parts.driver)
        _initialize(link.node)
    except BaseException:
        slot.write_report(redact(traceback.format_exc()))
        slot.words[C_STATE] = State.BOOT_FAILED
        os.eventfd_write(link.doorbell_fd, 1)
        return EXIT_BOOT_FAILED
    loop = loop_of(parts, idle_of(link, slot, parts.consumer, parts.limiter.due_in_s))
    returner = Returner(link, slot, parts)
    if not parts.storage.transport.capabilities.recall_by_others:
        returner.start()
        loop.stream()
    code = 1
    try:
        code = loop.run()
    finally:
        returner.stop()
        parts.driver.close()
        hooks.worker_process_shutdown.send(sender=link.node, pid=os.getpid(), exitcode=code)
    if code == EXIT_AS_TOLD:
        parts.give_back()
    parts.close()
    return code


def _initialize(node: str) -> None:
    """Run the application's hooks; what one of them raises ends the boot, after all of them had their turn.

    A child whose initialization failed must not run tasks (a peer logs the error and runs them).
    """
    for _, response in hooks.worker_process_init.send(sender=node):
        if isinstance(response, Exception):
            raise response


def _set_up_process() -> None:
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C reaches the whole foreground group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    show_stacks_on_request()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    prefer_as_oom_victim()
    random.seed()
    gc.enable()


def arm_soft_limit(slot: Slot, driver: Driver) -> None:
    """Raise `SoftTimeLimitExceeded` on SIGUSR1, in the execution it is meant for and no other.

    A coroutine that waits is cancelled, and raises it when it has ended.
    """
    words = slot.words

    def on_signal(signum: int, frame: FrameType | None) -> None:
        running = words[C_BODY]
        if running and running == words[S_SOFT_TARGET]:
            error = SoftTimeLimitExceeded()
            if not (held_off(error) or driver.interrupt(error)):
                raise error

    signal.signal(signal.SIGUSR1, on_signal)


def prefer_as_oom_victim() -> None:
    """Have the kernel prefer this process to the supervisor when memory runs out (faults.md §5)."""
    try:
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(_OOM_SCORE_ADJ)
    except OSError as error:
        # A hint to the kernel; some sandboxes forbid it, and the worker works without.
        print(f"oom_score_adj not set: {error}", file=sys.stderr)
