"""A task may write into any descriptor that it finds; the queue must not be what it writes into."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from prefork.transports.base import Outgoing
from prefork.transports.registry import open_transport


def _segments() -> list[int]:
    """The descriptors of this process that are segments of queues."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith(".seg"):
                found.append(int(name))
        except FileNotFoundError:
            continue  # that of the listing itself
    return found


@pytest.mark.parametrize("who", ["sends", "reserves"])
def test_what_is_written_into_a_segments_descriptor_is_refused_and_no_message_is_lost(
    tmp_path: Path, who: str
) -> None:
    url = f"filesystem://{tmp_path}/broker"
    transport = open_transport(url, {})
    transport.send([Outgoing("celery", b"first")])
    if who == "reserves":
        transport.close()
        transport = open_transport(url, {})
    consumer = transport.consumer(["celery"], "owner", "worker")
    assert [one.document for one in consumer.reserve(1)] == [b"first"]
    segments = _segments()
    assert segments
    for fd in segments:
        with pytest.raises(OSError) as refused:
            os.write(fd, b"\xff\x00garbage" * 400)
        assert refused.value.errno == errno.EFBIG
    transport.send([Outgoing("celery", b"second")])
    assert [one.document for one in consumer.reserve(2)] == [b"second"]
    transport.close()
