"""A worker whose template, agent and children are scripts, to test the supervisor by itself.

The broker is a directory: a job is a file ``<name>.job`` with the steps of one batch as JSON; a child
claims it by renaming it. Whatever happens is written to ``events``, one JSON object per line. The
file stands for what the real agent does in the real broker, too: the fake one moves the jobs of the
dead to ``gave-back``.

Run as ``python -m support.fake_worker SPEC`` by the tests; ``settings`` of the specification are what
the template reports, and those named in `Behaviour` say how the fakes behave.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from prefork.engine import orphans
from prefork.engine.boot import BootSpec
from prefork.engine.linux import Linux
from prefork.engine.process_link import ProcessLink, receive, send
from prefork.engine.scoreboard import (
    A_LOOP_NS,
    A_MOVED,
    A_PRIVATE_KIB,
    A_RENEWED_NS,
    A_SAMPLED_NS,
    A_WAITING,
    C_BATCH,
    C_CURSOR,
    C_EXECUTIONS,
    C_HARD_LIMIT_MS,
    C_HARD_NS,
    C_HELD,
    C_LOOP_NS,
    C_RUNNING,
    C_SHIELDED,
    C_SOFT_NS,
    C_START_NS,
    C_STATE,
    C_SUCCEEDED,
    S_GENERATION,
    S_HIGH_SLOT,
    S_MARK,
    S_PAUSED,
    S_SOFT_TARGET,
    S_STOP,
    State,
    Stop,
    unpack_mark,
)
from prefork.engine.supervisor.loop import Supervisor
from prefork.engine.supervisor.spawn import Entries

ENTRIES = Entries(
    "support.fake_worker:template_main",
    "support.fake_worker:fresh_child",
    "support.fake_worker:fresh_agent",
)


def setting(link: ProcessLink, name: str, default: Any = None) -> Any:
    return link.spec.settings.get(name, default)


def note(link: ProcessLink, what: str, **fields: Any) -> None:
    """Append one event; one write, so that it is whole whoever is killed."""
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic(), **fields}) + "\n"
    fd = os.open(Path(setting(link, "dir")) / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def say(link: ProcessLink, channel: socket.socket, message: dict[str, Any]) -> None:
    """Tell the supervisor; leave without a word, as the real ones do, when it does not listen any more."""
    try:
        send(channel, message)
    except OSError:
        orphans.clear_up_after(link.supervisor_pidfd, link.scoreboard)
        os._exit(1)


def descriptors() -> list[str]:
    """What this process has open besides 0, 1 and 2, sorted by what it is."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # the listing itself
            continue
    return sorted(what for fd, what in found if fd > 2)


# --- template --------------------------------------------------------------------------------


def template_main(link: ProcessLink) -> None:
    directory = Path(setting(link, "dir"))
    note(link, "template")
    if (directory / "template-fails").exists():
        send(link.channel, {"op": "boot-failed", "traceback": "Traceback: no such application"})
        os._exit(3)
    if (directory / "template-hangs").exists():
        note(link, "template hangs")
        signal.pause()
    if (directory / "template-dies").exists():
        os._exit(9)
    Linux().outlive_parent()
    options = {key: value for key, value in link.spec.settings.items() if key != "dir"}
    override = directory / "options"
    if override.exists():
        options |= json.loads(override.read_text())
    fresh = bool(setting(link, "fresh"))
    report = {"op": "ready", "options": options, "fresh": fresh, "reasons": ["told to"] if fresh else []}
    say(link, link.channel, report)
    if fresh:
        os._exit(0)
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    poller = select.poll()
    poller.register(link.channel, select.POLLIN)
    poller.register(link.supervisor_pidfd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if link.supervisor_pidfd in ready:
            orphans.kill_process_groups(link.scoreboard)
            os._exit(1)
        message, fds = receive(link.channel)
        if message is None:
            orphans.clear_up_after(link.supervisor_pidfd, link.scoreboard)
            os._exit(1)
        if message["op"] == "exit":
            os._exit(0)
        _fork(link, message, fds)


def _fork(link: ProcessLink, message: dict[str, Any], fds: list[int]) -> None:
    answer = {key: message.get(key) for key in ("kind", "slot", "generation")}
    if (Path(setting(link, "dir")) / "fork-fails").exists():
        say(link, link.channel, {"op": "fork-failed", "error": "told to", **answer})
        for fd in fds:
            os.close(fd)
        return
    reading, writing = os.pipe()
    intermediate = os.fork()
    if intermediate == 0:
        pid = os.fork()
        if pid:
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.close(writing)
        os.close(reading)
        link.channel.close()
        try:
            os.setpgid(0, 0)
            if message["kind"] == "child":
                os.environ[orphans.MARK] = orphans.mark(
                    link.supervisor_pid, message["slot"], message["generation"]
                )
            if message["kind"] == "agent":
                FakeAgent(link, socket.socket(fileno=fds[0])).run()
            while os.getppid() != link.supervisor_pid:
                if select.select([link.supervisor_pidfd], [], [], 0.0005)[0]:
                    os._exit(1)
            Linux().die_with_parent(link.supervisor_pid)
            FakeChild(link, message["slot"], message["generation"]).run()
        except BaseException:
            # In one piece: it may be killed in the middle of several.
            os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os.close(writing)
    pid = int(os.read(reading, 64))
    os.close(reading)
    os.waitpid(intermediate, 0)
    for fd in fds:
        os.close(fd)
    while message["kind"] == "agent" and (Path(setting(link, "dir")) / "agent-late").exists():
        time.sleep(0.005)
    say(link, link.channel, {"op": "forked", "pid": pid, **answer})


def fresh_child(link: ProcessLink, slot: int, generation: int) -> None:
    Linux().die_with_parent(link.supervisor_pid)
    FakeChild(link, slot, generation).run()


def fresh_agent(link: ProcessLink, channel: socket.socket) -> None:
    Linux().outlive_parent()
    FakeAgent(link, channel).run()


# --- agent -----------------------------------------------------------------------------------


class FakeAgent:
    def __init__(self, link: ProcessLink, channel: socket.socket) -> None:
        self.link = link
        self.channel = channel
        self.directory = Path(setting(link, "dir"))

    def run(self) -> None:
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        if (self.directory / "agent-dies").exists():
            os._exit(7)
        note(self.link, "agent")
        self._renew()
        while (self.directory / "agent-late").exists():
            time.sleep(0.005)
        self._say({"op": "ready"})
        if (self.directory / "agent-babbles").exists():
            (self.directory / "agent-babbles").unlink()
            self._say({"op": "recovered", "slot": None})
        while True:
            tick_s = setting(self.link, "agent_tick_s", 0.02)
            ready, _, _ = select.select([self.channel, self.link.supervisor_pidfd], [], [], tick_s)
            if self.link.supervisor_pidfd in ready:
                orphans.kill_process_groups(self.link.scoreboard)
                os._exit(1)
            if (self.directory / "agent-stalls").exists():
                continue
            self._renew()
            self._terminate()
            if self.channel in ready:
                self._serve()

    def _renew(self) -> None:
        words = self.link.scoreboard.words
        words[A_LOOP_NS] = time.monotonic_ns()
        if not (self.directory / "lease-fails").exists():
            words[A_RENEWED_NS] = time.monotonic_ns()
        words[A_WAITING] = len(list(self.directory.glob("*.job")))
        try:
            index, kib = json.loads((self.directory / "memory").read_text())
        except FileNotFoundError:
            return
        self.link.scoreboard.slot(index).words[A_PRIVATE_KIB] = kib
        self.link.scoreboard.slot(index).words[A_SAMPLED_NS] = time.monotonic_ns()

    def _terminate(self) -> None:
        """Have the supervisor end the job that the file `terminate` names, as soon as it runs."""
        try:
            asked = json.loads((self.directory / "terminate").read_text())
        except FileNotFoundError:
            return
        board = self.link.scoreboard
        for index in range(board.words[S_HIGH_SLOT]):
            slot = board.slot(index)
            request = {"op": "terminate", "slot": index, "generation": slot.words[S_GENERATION]}
            request |= {"execution": slot.words[C_RUNNING], "signal": asked["signal"]}
            texts = slot.read_texts()
            if request["execution"] and not texts.torn and texts.task_id == asked["id"]:
                if slot.words[C_RUNNING] == request["execution"]:
                    (self.directory / "terminate").unlink()
                    note(self.link, "terminate", **{k: v for k, v in request.items() if k != "op"})
                    self._say(request)
                    return

    def _serve(self) -> None:
        message, _ = receive(self.channel)
        if message is None:
            orphans.clear_up_after(self.link.supervisor_pidfd, self.link.scoreboard)
            os._exit(1)
        if message["op"] == "stop":
            note(self.link, "agent stopped")
            os._exit(0)
        if message["op"] == "stopping":
            note(self.link, "stopping", **{k: v for k, v in message.items() if k != "op"})
            return
        if (self.directory / "agent-ignores").exists():
            return
        slot = self.link.scoreboard.slot(message["slot"])
        outcomes = [data.decode() for data in slot.read_outcomes()]
        if message["op"] == "dead":
            note(self.link, "dead", outcomes=outcomes, **{k: v for k, v in message.items() if k != "op"})
            for path in self.directory.glob(f"*.taken-{message['owner']}"):
                path.rename(path.with_name(path.name.split(".", 1)[0] + ".gave-back"))
            answer = "recovered"
        else:
            note(self.link, "recall", outcomes=outcomes, **{k: v for k, v in message.items() if k != "op"})
            slot.words[A_MOVED] = message["batch"]
            answer = "moved"
        self._say({**message, "op": answer})

    def _say(self, message: dict[str, Any]) -> None:
        say(self.link, self.channel, message)


# --- child -----------------------------------------------------------------------------------


class SoftLimit(Exception):
    pass


def heed_soft_limits(heeds: bool) -> None:
    """From now on, or what comes waits until they are heeded."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK if heeds else signal.SIG_BLOCK, {signal.SIGUSR1})


class FakeChild:
    def __init__(self, link: ProcessLink, slot: int, generation: int) -> None:
        self.link = link
        self.index = slot
        self.slot = link.scoreboard.slot(slot)
        self.words = self.slot.words
        self.owner = f"{link.worker_id}.{slot}.{generation}"
        self.directory = Path(setting(link, "dir"))
        self.futex = Linux().futex(link.scoreboard.buffer, self.slot.wake_address())
        self.done = 0

    def run(self) -> None:
        signal.signal(signal.SIGUSR1, self._on_soft)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        self.words[C_STATE] = State.BOOTING
        if (self.directory / "child-fails").exists():
            self.slot.write_report("Traceback: init hook raised")
            self.words[C_STATE] = State.BOOT_FAILED
            os._exit(3)
        if (self.directory / "child-hangs").exists():
            signal.pause()
        note(self.link, "child", slot=self.index, fds=descriptors())
        self.words[C_STATE] = State.IDLE
        os.eventfd_write(self.link.doorbell_fd, 1)
        while self.words[S_STOP] != Stop.LEAVE:
            self.words[C_LOOP_NS] = time.monotonic_ns()
            seen = self.futex.value()
            batch = None if self._paused() else self._claim()
            if batch is None:
                self.futex.wait(seen, 0.01)
            else:
                self._run_batch(*batch)
            if setting(self.link, "max_tasks") and self.done >= setting(self.link, "max_tasks"):
                self.words[C_STATE] = State.RETIRING
                os.eventfd_write(self.link.doorbell_fd, 1)
        os._exit(0)

    def _paused(self) -> bool:
        return bool(self.link.scoreboard.words[S_PAUSED]) or self.words[C_STATE] == State.RETIRING

    def _on_soft(self, _number: int, _frame: object) -> None:
        if self.words[C_RUNNING] and self.words[S_SOFT_TARGET] == self.words[C_RUNNING]:
            raise SoftLimit

    def _claim(self) -> tuple[Path, list[dict[str, Any]]] | None:
        for path in sorted(self.directory.glob("*.job")):
            taken = path.with_suffix(f".taken-{self.owner}")
            try:
                path.rename(taken)
            except FileNotFoundError:
                continue
            return taken, json.loads(taken.read_text())
        return None

    def _run_batch(self, path: Path, steps: list[dict[str, Any]]) -> None:
        words = self.words
        words[C_CURSOR] = 0
        words[C_HELD] = len(steps)
        words[C_BATCH] += 1
        words[C_STATE] = State.WORKING
        for number, step in enumerate(steps):
            words[C_CURSOR] = number + 1
            batch, index = unpack_mark(words[S_MARK])
            if batch == words[C_BATCH] and number >= index:
                break
            self._run_step(path.name.split(".", 1)[0], number, step)
        words[C_HELD] = words[C_CURSOR] = 0
        self.slot.clear_outcomes()
        words[C_STATE] = State.IDLE
        path.rename(path.with_name(path.name.split(".", 1)[0] + ".done"))

    def _run_step(self, job: str, number: int, step: dict[str, Any]) -> None:
        words = self.words
        execution = words[C_EXECUTIONS] = words[C_EXECUTIONS] + 1
        self.slot.write_texts(f"{job}-{number}".encode(), step["do"].encode(), b"")
        now_ns = time.monotonic_ns()
        words[C_START_NS] = now_ns
        words[C_SOFT_NS] = now_ns + int(step["soft_s"] * 1e9) if "soft_s" in step else 0
        words[C_HARD_NS] = now_ns + int(step["hard_s"] * 1e9) if "hard_s" in step else 0
        words[C_HARD_LIMIT_MS] = int(step.get("hard_s", 0) * 1000)
        # The limit may be over before the step is reached; it is raised where somebody catches it.
        heed_soft_limits(False)
        words[C_RUNNING] = execution
        # The moment from which its limits count, and not the one at which this comes to be written.
        note(self.link, "start", at=now_ns / 1e9, job=job, number=number, slot=self.index)
        try:
            heed_soft_limits(step["do"] != "swallow")  # that one catches them itself
            STEPS[step["do"]](self, step)
            outcome = "done"
            words[C_RUNNING] = 0
        except SoftLimit:
            outcome = "soft"
            words[C_RUNNING] = 0
        words[C_SUCCEEDED] += 1
        self.done += 1
        self.slot.append_outcome(f"{job}-{number}".encode())
        note(self.link, "end", job=job, number=number, outcome=outcome, slot=self.index)


def _sleep(_child: FakeChild, step: dict[str, Any]) -> None:
    deadline = time.monotonic() + step.get("s", 0.0)
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))


def _until(child: FakeChild, step: dict[str, Any]) -> None:
    """Goes on until a file is there."""
    while not (child.directory / step["path"]).exists():
        time.sleep(0.005)


def _sleep_or_until(child: FakeChild, step: dict[str, Any]) -> None:
    (_until if "path" in step else _sleep)(child, step)


def _ignore(child: FakeChild, step: dict[str, Any]) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number < 32:
            signal.signal(number, signal.SIG_IGN)
    _sleep(child, step)


def _mask(child: FakeChild, step: dict[str, Any]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _sleep(child, step)


def _mutex(library: ctypes.CDLL) -> None:
    mutex = (ctypes.c_char * 64)()
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def _catch(child: FakeChild, step: dict[str, Any]) -> None:
    """Catches SIGTERM, as tasks do that clean up; then it leaves, or goes on as if nothing had been."""

    def on_term(_number: int, _frame: object) -> None:
        note(child.link, "caught")
        if "code" in step:
            os._exit(step["code"])

    signal.signal(signal.SIGTERM, on_term)
    note(child.link, "catching")
    _sleep_or_until(child, step)


def _shielded(child: FakeChild, step: dict[str, Any]) -> None:
    """Is in a shield for a while, and then goes on."""
    child.words[C_SHIELDED] = child.words[C_RUNNING]
    note(child.link, "shielded")
    _sleep_or_until(child, step)
    child.words[C_SHIELDED] = 0
    note(child.link, "shield ended")
    time.sleep(60)


def _stuck(_child: FakeChild, _step: dict[str, Any]) -> None:
    _mutex(ctypes.CDLL(None))


def _stuck_with_gil(_child: FakeChild, _step: dict[str, Any]) -> None:
    _mutex(ctypes.PyDLL(None))


def _stop_self(_child: FakeChild, _step: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _grandchild(child: FakeChild, step: dict[str, Any]) -> None:
    """A sub-process in the group, and one in a session of its own."""
    subprocess.Popen(["sleep", "300"])
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    _sleep(child, step)


def _daemon(child: FakeChild, step: dict[str, Any]) -> None:
    """A program that leaves its group and its parent, as daemons do."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "299"])
        os._exit(0)
    os.wait()
    _sleep(child, step)


def _orphan(child: FakeChild, step: dict[str, Any]) -> None:
    """A sub-process that outlives its own parent and then ends."""
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(step["s"])
            note(child.link, "orphan ends")
        os._exit(0)
    os.wait()


def _swallow(_child: FakeChild, step: dict[str, Any]) -> None:
    """Catches its soft limit, as tasks do."""
    caught = 0
    deadline = time.monotonic() + step["s"]
    while time.monotonic() < deadline and caught < step["times"]:
        try:
            heed_soft_limits(True)
            while time.monotonic() < deadline:
                time.sleep(0.05)
        except SoftLimit:
            heed_soft_limits(False)
            caught += 1


def _die(_child: FakeChild, step: dict[str, Any]) -> None:
    os.kill(os.getpid(), step["signal"])


def _leave(_child: FakeChild, step: dict[str, Any]) -> None:
    os._exit(step["code"])


STEPS = {
    "sleep": _sleep,
    "until": _until,
    "ignore": _ignore,
    "mask": _mask,
    "stuck": _stuck,
    "stuck with gil": _stuck_with_gil,
    "stop self": _stop_self,
    "grandchild": _grandchild,
    "daemon": _daemon,
    "orphan": _orphan,
    "swallow": _swallow,
    "catch": _catch,
    "shielded": _shielded,
    "die": _die,
    "exit": _leave,
}


def main() -> int:
    spec = BootSpec.from_json(Path(sys.argv[1]).read_text())
    return Supervisor(spec, ENTRIES).run()


if __name__ == "__main__":
    sys.exit(main())
