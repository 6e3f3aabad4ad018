"""Packets between the supervisor and its processes."""

from __future__ import annotations

import gc
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.process_link import (
    PACKET_BYTES_MAX,
    PacketError,
    channel_pair,
    decode,
    encode,
    receive,
    send,
)
from prefork.engine.supervisor.channel import PacketChannel

messages = st.fixed_dictionaries(
    {"op": st.text()},
    optional={
        "slot": st.integers(0, 1023),
        "traceback": st.text(),
        "reasons": st.lists(st.text(), max_size=3),
    },
)


@given(messages)
def test_a_message_comes_back_as_it_was(message: dict[str, object]) -> None:
    assert decode(encode(message)) == message or any("\ud800" <= c <= "\udfff" for c in repr(message))


@given(st.binary(max_size=200))
def test_any_packet_is_a_message_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(decode(data)["op"], str)
    except PacketError as error:
        assert error.size_bytes == len(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"op": 1}', b"[" * 100_000])
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(PacketError, match="not a packet"):
        decode(data)


def test_a_message_that_is_too_long_is_refused_by_its_sender() -> None:
    with pytest.raises(PacketError, match="'boot-failed' is too long"):
        encode({"op": "boot-failed", "traceback": "x" * PACKET_BYTES_MAX})


def test_descriptors_travel_with_a_message_and_the_end_is_told() -> None:
    ours, theirs = channel_pair()
    reading, writing = os.pipe()
    with ours, theirs:
        send(ours, {"op": "fork"}, [writing])
        message, fds = receive(theirs)
        assert message == {"op": "fork"}
        os.write(fds[0], b"x")
        assert os.read(reading, 1) == b"x"
        assert not os.get_inheritable(fds[0])
        for fd in (*fds, reading, writing):
            os.close(fd)
        ours.close()
        assert receive(theirs) == (None, [])


def test_a_longest_message_passes() -> None:
    ours, theirs = channel_pair()
    with ours, theirs:
        text = "x" * (PACKET_BYTES_MAX - 100)
        send(ours, {"op": "ready", "text": text})
        assert receive(theirs)[0] == {"op": "ready", "text": text}


# --- the supervisor's end --------------------------------------------------------------------------


def test_what_does_not_fit_is_sent_later_and_in_order() -> None:
    ours, theirs = channel_pair()
    with theirs:
        channel = PacketChannel(ours)
        for number in range(3000):
            channel.send({"op": "fork", "slot": number, "padding": "x" * 1000})
        theirs.setblocking(False)
        seen = []
        while len(seen) < 3000:
            try:
                message, _ = receive(theirs)
            except BlockingIOError:
                channel.flush()
                continue
            assert message is not None
            seen.append(message["slot"])
        assert seen == list(range(3000))
        channel.close()


def test_descriptors_that_were_sent_or_never_will_be_are_closed() -> None:
    gc.collect()  # what earlier tests have left to the collector is not closed between the two counts
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = channel_pair()
    with theirs:
        channel = PacketChannel(ours)
        for _ in range(200):
            channel.send({"op": "fork", "padding": "x" * 50_000}, [os.dup(0)])
        channel.close()
        assert channel.fileno() == -1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_channel_whose_other_end_has_gone_is_closed_without_an_error() -> None:
    ours, theirs = channel_pair()
    channel = PacketChannel(ours)
    send(theirs, {"op": "ready"})
    theirs.close()
    channel.send({"op": "fork"})
    assert channel.closed
    assert channel.receive() == []
    channel.close()


def test_the_last_words_of_the_other_end_are_heard() -> None:
    ours, theirs = channel_pair()
    channel = PacketChannel(ours)
    send(theirs, {"op": "boot-failed"})
    theirs.close()
    assert channel.receive() == [{"op": "boot-failed"}]
    assert channel.closed
    assert channel.fault is None
    channel.close()


def test_nonsense_on_a_channel_is_a_fault() -> None:
    ours, theirs = channel_pair()
    with theirs:
        channel = PacketChannel(ours)
        assert channel.receive() == []
        theirs.send(b"\xff")
        assert channel.receive() == []
        assert channel.closed
        assert isinstance(channel.fault, PacketError)
        channel.close()


def test_a_packet_that_was_cut_is_an_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.send(b"x" * (PACKET_BYTES_MAX + 1))
        with pytest.raises(PacketError, match="cut"):
            receive(theirs)
