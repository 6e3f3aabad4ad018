"""``-P solo``: everything in one process, for debuggers; and in a thread of somebody else's, for tests.

The loop runs in one thread (the main one, unless it is a guest), the duties towards the broker in a
second one; nobody forks, so a thread does no harm here. There is nobody to enforce limits, which is said
at start.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from ...transports.base import Consumer, Recovery, Transport, Wakeable
from ...transports.errors import TransportError
from ...transports.readable import wait_readable
from .. import signals as hooks
from ..boot import BootSpec
from ..broker_demands import refuse_unkept
from ..client import Client
from ..clock import mono_s
from ..execution import Interrupted
from ..housekeeping import Duty, Housekeeping
from ..limits.board import RateBoard
from ..limits.lookout import Lookout
from ..loaded_app import Loaded, load
from ..process_link import ProcessLink, channel_pair
from ..responder.worker import SAVE_S, WorkerControl
from ..revoker import TURN_S, Revoker
from ..scoreboard import C_BODY, C_EXECUTIONS, C_STATE, S_PAUSED, S_STOP, Scoreboard, State, Stop
from ..shielding import held_off
from ..storage import open_storage
from ..unique_locks import keeping
from ..worker_names import incarnation, node_name
from ..worker_names import owner as owner_name
from .choosing import loop_of
from .idle import Nudge
from .loop import EXIT_AS_TOLD
from .parts import Parts

_SAFETY_S: Final = 1.0

_log = logging.getLogger("prefork.solo")


class WatchWakes:
    """Sleeps on the broker's own watch (and on the connection, where messages are pushed to it), and on
    a descriptor that a signal handler writes to; and until a limited task may run."""

    def __init__(
        self,
        transport: Transport,
        queues: list[str],
        stop_fd: int,
        consumer: Consumer,
        due_in_s: Callable[[], float | None],
    ) -> None:
        self._due_in_s = due_in_s
        self._watch = transport.watch(queues)
        self._stop_fd = stop_fd
        self._connection = consumer if isinstance(consumer, Wakeable) else None
        self._nudged = Nudge()

    def before_looking(self) -> int:
        """Forget what fired so far."""
        self._nudged.drain()
        self._watch.drain()
        return 0

    def wait(self, token: int) -> None:
        """Sleep until the watch fires or the worker is told to leave; at most a second."""
        fds = [self._watch.fileno(), self._stop_fd, self._nudged.fd]
        if self._connection is not None and self._connection.fileno() >= 0:
            fds.append(self._connection.fileno())
        due_in_s = self._due_in_s()
        wait_readable(fds, _SAFETY_S if due_in_s is None else min(due_in_s, _SAFETY_S))

    def worked(self) -> None:
        """Nothing to remember."""

    def nudge(self) -> None:
        """End the present or the next sleep."""
        self._nudged.give()

    def rest(self, token: int) -> None:
        """Sleep until nudged; at most a second, in which the worker may be told to leave."""
        wait_readable([self._nudged.fd], _SAFETY_S)

    def close(self) -> None:
        """Release the watch."""
        self._watch.close()
        os.close(self._nudged.fd)


class Solo:
    """A worker of one process.

    :param loaded: the application.
    :param guest: the process is somebody else's: its signals and title, and the connections of its app,
        are left alone.
    :param on_ready: called when messages are taken from now on.
    """

    def __init__(
        self,
        link: ProcessLink,
        loaded: Loaded,
        *,
        guest: bool = False,
        on_ready: Callable[[], object] | None = None,
    ) -> None:
        self._loaded = loaded
        self._guest = guest
        self._worker_id = link.worker_id
        self._slot = link.scoreboard.slot(0)
        self._slot.clear(1)
        self._storage = open_storage(loaded.app, Client(loaded.app, loaded.config) if guest else None)
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._board_words = link.scoreboard.words
        # Written by the housekeeping thread.
        self._renewed_s = 0.0
        self._failed = False
        self._lease_s: float = loaded.options["lease_s"]
        self._stopped = threading.Event()
        self._on_ready = on_ready
        self._keeping = self._housekeeping()
        self.revoker = Revoker(
            link.scoreboard, self._storage, loaded.config, _log, worker_id=link.worker_id, end=None
        )
        rates = RateBoard(link.scoreboard)
        self._control = WorkerControl(link, loaded, self._storage, self.revoker, rates, stop=self.leave)
        self._control.load()
        self.revoker.turn()
        self._keeping.duties += [
            Duty("revocations", TURN_S, self.revoker.turn),
            Duty("state", SAVE_S, self._control.save),
            self._lanes(rates),
            *keeping(self._storage.transport, lambda: (self._slot,), _log),
        ]
        self._keeping.renew()
        self._parts = self._child(link, rates)

    def _housekeeping(self) -> Housekeeping:
        """The duties that an agent would have."""
        config = self._loaded.config
        return Housekeeping(
            self._storage.transport,
            self._worker_id,
            lease_s=self._lease_s,
            renew_s=config.worker_lease_renew_interval,
            max_crashes=config.task_max_crashes,
            log=_log,
            on_renewed=self._renewed,
            on_promoted=lambda: None,
            on_lapsed=_report,
        )

    def _lanes(self, rates: RateBoard) -> Duty:
        """The duty to look into the lanes of limited tasks.

        :raises ImproperlyConfigured: a limit is none, or there are too many.
        """
        tasks = list(self._loaded.app.tasks.values())
        queues = self._loaded.options["queues"]
        lookout = Lookout(rates, self._storage, tasks, self._loaded.config, queues, _log)
        return Duty("lanes", lookout.every_s, lookout.look)

    def _child(self, link: ProcessLink, rates: RateBoard) -> Parts:
        """What takes messages and runs tasks, as the only child."""
        return Parts(
            self._loaded,
            self._storage,
            self._slot,
            self._board_words,
            doorbell_fd=link.doorbell_fd,
            node=link.node,
            owner=owner_name(link.worker_id, 0, 1),
            worker_id=link.worker_id,
            replaceable=False,
            rates=rates,
            titled=not self._guest,
        )

    def run(self) -> int:
        """Run until a signal, or `leave`, says to leave; returns the exit code."""
        if not self._guest:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
        if self._loaded.options["has_limits"]:
            _log.warning("-P solo enforces no time limits: there is no other process to do it")
        hooks.worker_process_init.send(sender=self._loaded.node)
        self._control.start()
        # Who revoked something between the first look and the lease did not ask this worker, and who did so
        # before it listened was not heard. The keeper does so from then on, and nobody else.
        self.revoker.look_again()
        keeper = threading.Thread(target=self._keep, name="prefork-housekeeping", daemon=True)
        keeper.start()
        transport, queues = self._storage.transport, self._loaded.options["queues"]
        idle = WatchWakes(
            transport, queues, self._stop_fd, self._parts.consumer, self._parts.limiter.due_in_s
        )
        self._slot.words[C_STATE] = State.IDLE
        hooks.worker_ready.send(sender=self._loaded.sender)
        if self._on_ready is not None:
            self._on_ready()
        code = 1
        try:
            code = loop_of(self._parts, idle).run()
        finally:
            self._parts.driver.close()
            self._stopped.set()
            keeper.join(_SAFETY_S * 2)
            idle.close()
            self._leave(code)
        return code or int(self._failed)

    def _leave(self, code: int) -> None:
        self._control.close()
        hooks.worker_process_shutdown.send(sender=self._loaded.node, pid=os.getpid(), exitcode=code)
        hooks.worker_shutdown.send(sender=self._loaded.sender)
        self._parts.give_back()
        try:
            self._storage.transport.unregister(self._worker_id)
        except TransportError as error:
            _log.warning("the lease is left to run out: %s", error)
        self._parts.close()

    def running(self) -> tuple[str, str] | None:
        """Id and name of the task whose body runs now, if one does."""
        if not self._slot.words[C_BODY]:
            return None
        texts = self._slot.read_texts()
        return texts.task_id, texts.task_name

    def executions(self) -> int:
        """How many tasks have been begun."""
        return int(self._slot.words[C_EXECUTIONS])

    def close(self) -> None:
        """Close what `leave` needs; after the run, and after the last `leave`."""
        os.close(self._stop_fd)

    def _keep(self) -> None:
        """Renew the lease and the like; without it the worker may not go on."""
        try:
            while not self._stopped.is_set():
                wait_s = self._keeping.turn()
                self._board_words[S_PAUSED] = int(mono_s() - self._renewed_s > self._lease_s / 2)
                self._stopped.wait(wait_s)
        except Exception:
            _log.exception("the housekeeping has failed; the worker leaves")
            self._failed = True
            self.leave()

    def _renewed(self) -> None:
        self._renewed_s = mono_s()

    def leave(self) -> None:
        """Have the loop end when the running task has ended; from any thread."""
        self._slot.words[S_STOP] = Stop.LEAVE
        os.eventfd_write(self._stop_fd, 1)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        if self._slot.words[S_STOP] == Stop.RUN:
            hooks.worker_shutting_down.send(
                sender=self._loaded.node, sig=name, how="Warm", exitcode=EXIT_AS_TOLD
            )
            self.leave()
            _log.info("%s: leaving when the running task has ended; once more to give it back", name)
        elif self._slot.words[C_BODY]:
            interrupted = Interrupted(f"stopped by a second {name}")
            if not (held_off(interrupted) or self._parts.driver.interrupt(interrupted)):
                raise interrupted


def _report(recovery: Recovery) -> None:
    if recovery.returned or recovery.dead:
        _log.warning("took over %d messages of lost workers", recovery.returned)


def link_here(spec: BootSpec) -> ProcessLink:
    """A link of a process that is its own supervisor."""
    ours, theirs = channel_pair()
    theirs.close()
    pidfd = os.pidfd_open(os.getpid())
    doorbell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    node = node_name(spec.hostname, socket.gethostname())
    worker_id = incarnation(node, os.urandom(4))
    return ProcessLink(Scoreboard(), ours, doorbell_fd, os.getpid(), pidfd, spec, node, worker_id)


def run(spec: BootSpec) -> int:
    """Be a worker of one process; returns the exit code.

    :raises BaseException: whatever the application raises when it is imported.
    """
    link = link_here(spec)
    loaded = load(link)
    refuse_unkept(loaded.app, loaded.config, loaded.options["queues"])
    for warning in loaded.options["warnings"]:
        _log.warning("%s", warning)
    if spec.banner:
        print(_banner(loaded), file=sys.stderr)
    return Solo(link, loaded).run()


def _banner(loaded: Loaded) -> str:
    options = loaded.options
    return (
        f"prefork {loaded.node}: solo, app {options['app']}, broker {options['broker']}, "
        f"queues {', '.join(options['queues'])}"
    )
