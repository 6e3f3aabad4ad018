"""Processes that became the supervisor's children without being forked by it.

The supervisor is a child subreaper: what a task's sub-process leaves behind is re-parented to it.
Zombies among them are reaped. The living that a killed child has left are killed, when they come
to light by its death; others are daemons that some task has started on purpose, and live until
the worker ends.
"""

from __future__ import annotations

import collections
import os
import signal
from collections.abc import Collection, Iterable
from typing import NamedTuple

from .. import orphans


class Stranger(NamedTuple):
    """A child of ours that nobody forked for us."""

    pid: int
    group: int
    session: int


class Strangers:
    """Knows who is there besides the known.

    :ivar killed: how many have been killed.
    """

    def __init__(self) -> None:
        self._own = os.getpid()
        self._session = os.getsid(0)
        self._seen: set[int] = set()
        # Sessions of what killed children have left: who turns up with one of them goes, too.
        self._doomed_sessions: set[int] = set()
        self.killed = 0

    def note(self, known: Iterable[int]) -> None:
        """Remember who is there now, so that who comes to light by a death can be told from them."""
        self._seen = {stranger.pid for stranger in self._scan(known)}

    def kill_descendants(self, children: Collection[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Kill every program that these children (slot, generation) have started, in whatever session.

        One look at all processes for all of them: a hundred children may die at once.

        :returns: how many, by child; none for those that had none.
        """
        counts: collections.Counter[tuple[int, int]] = collections.Counter()
        for pid, child in orphans.descendants(self._own).items():
            if child in children and pid != self._own:
                counts[child] += self._kill(pid)
        return {child: count for child, count in counts.items() if count}

    def kill_left_behind(self, known: Iterable[int]) -> int:
        """Kill whoever was not there when `note` was last called; returns how many.

        Programs that another child has started bear its mark, and are left alone.
        """
        count = 0
        marked: set[int] | None = None
        for stranger in self._scan(known):
            if stranger.pid in self._seen and stranger.session not in self._doomed_sessions:
                continue
            if marked is None:
                marked = set(orphans.descendants(self._own))
            if stranger.pid in marked:
                continue
            if stranger.session != self._session:
                self._doomed_sessions.add(stranger.session)
            count += self._kill(stranger.pid)
        if len(self._doomed_sessions) > 256:
            self._doomed_sessions.clear()
        return count

    def kill_all(self, known: Iterable[int]) -> int:
        """Kill everybody who is there, at the end of the worker; returns how many.

        Those, too, that only the death of one of the others would bring to light.
        """
        pids = {stranger.pid for stranger in self._scan(known)} | set(orphans.descendants(self._own))
        return sum(self._kill(pid) for pid in pids - set(known) - {self._own})

    def reap(self, known: frozenset[int]) -> int:
        """Reap those that have ended; returns how many. To be called when no fork is pending."""
        count = 0
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return count
            if ended is None or ended.si_pid in known:
                return count  # ours come first: the next turn reaps them by their pidfd
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
            self._seen.discard(ended.si_pid)
            count += 1

    def _kill(self, pid: int) -> int:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return 0
        self.killed += 1
        return 1

    def _scan(self, known: Iterable[int]) -> list[Stranger]:
        known_pids = set(known)
        found = []
        for pid in self._children_of_ours():
            if pid in known_pids:
                continue
            stranger = self._read(pid)
            if stranger is not None:
                found.append(stranger)
        return found

    def _children_of_ours(self) -> list[int]:
        try:
            with open(f"/proc/self/task/{self._own}/children", "rb") as children:
                return [int(pid) for pid in children.read().split()]
        except FileNotFoundError:
            # The kernel was built without that file.
            return orphans.process_ids()
        except OSError:
            return []  # no descriptor is left; they are looked for again in a moment

    def _read(self, pid: int) -> Stranger | None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                state, parent, group, session = stat.read().rpartition(b")")[2].split()[:4]
        except OSError:
            return None  # gone in between
        if int(parent) != self._own or state == b"Z":
            return None
        return Stranger(pid, int(group), int(session))
