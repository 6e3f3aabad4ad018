"""Acknowledgements that must be with the broker before anything else happens."""

from __future__ import annotations

import os
import signal

import pytest

from prefork.transports.base import Flushes, Outcome, Outgoing
from prefork.transports.errors import BrokerUnavailable
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually

from .conftest import Open


def test_what_was_flushed_is_not_undone_by_a_kill(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, b"%d" % i) for i in range(20)])
    for turn in range(10):
        pid = os.fork()
        if pid == 0:
            try:
                consumer = transport.consumer([queue], f"{queue}.{turn}", "w")
                (held,) = consumer.reserve(1, timeout_s=5.0)
                consumer.settle([Outcome(held.tag)])
                assert isinstance(consumer, Flushes)
                consumer.flush()
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    eventually(lambda: transport.depth(queue).ready == 10)


def test_a_flush_that_nobody_answered_says_that_nobody_knows(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, b"m")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    (held,) = consumer.reserve(1, timeout_s=5.0)
    assert consumer.settle([Outcome(held.tag)]) == [True]
    rabbitmq.control("close_all_connections", "a test")
    with pytest.raises(BrokerUnavailable) as raised:
        consumer.flush()
    assert raised.value.outcome_unknown is True
