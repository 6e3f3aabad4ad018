"""What a process keeps open: nothing of what others have removed, but for the last few."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from prefork.transports.base import Outcome, Outgoing
from prefork.transports.filesystem.transport import FilesystemTransport

ROUNDS = 8
MESSAGES = 5000


def removed_but_open(root: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(str(root)) and target.endswith(" (deleted)"):
                found.append(target)
    return found


def test_segments_that_another_has_removed_do_not_stay_open(broker_root: Path) -> None:
    sender, taker = FilesystemTransport(broker_root), FilesystemTransport(broker_root)
    taker.heartbeat("worker", 60.0)
    consumer = taker.consumer(["q"], "owner", "worker")
    try:
        open_after_each = []
        for _ in range(ROUNDS):
            sender.send([Outgoing("q", b"{}") for _ in range(MESSAGES)])
            while batch := consumer.reserve(64):
                assert all(consumer.settle([Outcome(tag=delivery.tag) for delivery in batch]))
            open_after_each.append(len(removed_but_open(broker_root)))
        assert taker.depth("q").ready == 0
        # Each round fills a segment or more, and the sender learns of a removal with its next one.
        assert max(open_after_each) <= 3, open_after_each
    finally:
        consumer.close()
        sender.close()
        taker.close()
