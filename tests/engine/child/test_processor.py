"""Which runs were long, and which only waited for a processor."""

from __future__ import annotations

import time
from time import perf_counter_ns, thread_time_ns

from prefork.engine.child.processor import Processor
from support.waiting import eventually

SECOND_NS = 1_000_000_000


def test_a_run_that_waited_for_nothing_was_as_long_as_the_processor_that_it_used() -> None:
    def judged_ns() -> int:
        processor = Processor()
        processor.begin()
        # By the clock it was a second: the machine was busy with something else.
        return processor.own_ns(SECOND_NS)

    # The first tries may fault pages in, and wait for them.
    assert eventually(lambda: judged_ns() < SECOND_NS // 100)


def test_a_run_that_waited_was_as_long_as_the_clock_says() -> None:
    processor = Processor()
    processor.begin()
    time.sleep(0.001)
    assert processor.own_ns(SECOND_NS) == SECOND_NS


def test_a_run_that_used_the_processor_is_charged_with_all_of_it() -> None:
    processor = Processor()
    processor.begin()
    began_ns, end_ns = perf_counter_ns(), thread_time_ns() + 8_000_000
    while thread_time_ns() < end_ns:
        pass
    busy_ns = perf_counter_ns() - began_ns
    assert 8_000_000 <= processor.own_ns(busy_ns) <= busy_ns


def test_it_is_never_longer_than_the_clock_says() -> None:
    processor = Processor()
    processor.begin()
    assert processor.own_ns(1) == 1
