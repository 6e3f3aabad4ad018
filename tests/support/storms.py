"""A storm: children that run a task are killed, one after the other, for as long as that takes."""

from __future__ import annotations

import random
import time

from support.stress_worker import Site

NOBODY_S = 30.0
"""How long nobody may be there to kill: many times what it takes to replace all children."""


def storm(
    site: Site,
    dice: random.Random,
    kills: int,
    *,
    left: int,
    every_s: tuple[float, float],
    task: str = "work",
    nobody_s: float = NOBODY_S,
) -> None:
    """Kill children that run a task until there have been so many kills.

    :param left: fewer messages than that are never waiting: there is always somebody at work.
    :param every_s: how long to wait before each kill, at least and at most.
    :raises AssertionError: no child ran a task for `nobody_s`, with what the workers logged.
    """
    killed: set[int] = set()
    last_s = time.monotonic()
    while len(site.kills) < kills:
        time.sleep(dice.uniform(*every_s))  # the moment of the kill is what varies
        if len(site.accepted) - len(site.ledger.finished) < left:
            for _ in range(left):
                site.send(task, dice.uniform(0.005, 0.020))
        running = [pid for pid in site.ledger.read().running() if pid not in killed]
        if running:
            pid = dice.choice(running)
            killed.add(pid)
            if site.kill(pid):
                last_s = time.monotonic()
        assert time.monotonic() < last_s + nobody_s, _told(site, kills, nobody_s)


def _told(site: Site, kills: int, nobody_s: float) -> str:
    logs = "\n".join(worker.log[-4000:] for worker in site.workers)
    so_far = f"{len(site.kills)} of {kills} kills; {site.depth()}"
    return f"no child ran a task for {nobody_s} s, after {so_far}\n{logs}"
