"""A slot of the scoreboard on which whatever the claim protocol is made of lies behind a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefork.engine.scoreboard import (
    C_BATCH,
    C_CURSOR,
    C_HELD,
    C_OUTCOME_BYTES,
    C_OUTCOME_CLEARS,
    C_RUNNING,
    S_MARK,
    Slot,
    Texts,
)

Step = Callable[[], None]

_PROTOCOL = frozenset({C_BATCH, C_CURSOR, C_HELD, C_OUTCOME_BYTES, C_OUTCOME_CLEARS, C_RUNNING, S_MARK})


class GatedWords:
    """Words of a slot behind a gate."""

    def __init__(self, words: memoryview, gate: Step) -> None:
        self._words = words
        self._gate = gate

    def __getitem__(self, index: int) -> int:
        if index in _PROTOCOL:
            self._gate()
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if index in _PROTOCOL:
            self._gate()
        self._words[index] = value


class GatedBuffer:
    """The mapping of a slot behind a gate."""

    def __init__(self, buffer: Any, gate: Step) -> None:
        self._buffer = buffer
        self._gate = gate

    def __getitem__(self, at: slice) -> bytes:
        self._gate()
        return self._buffer[at]  # type: ignore[no-any-return]

    def __setitem__(self, at: slice, data: bytes) -> None:
        self._gate()
        self._buffer[at] = data


class GatedSlot(Slot):
    """A slot whose words are behind a gate."""

    def __init__(self, slot: Slot, gate: Step) -> None:
        super().__init__(slot.buffer, slot.index)
        self.words = GatedWords(slot.words, gate)  # type: ignore[assignment]
        self.buffer = GatedBuffer(slot.buffer, gate)  # type: ignore[assignment]
        self._plain = slot

    def write_texts(self, task_id: bytes, task_name: bytes, tag: bytes) -> None:
        """No part of the protocol."""
        self._plain.write_texts(task_id, task_name, tag)

    def read_texts(self) -> Texts:
        """No part of the protocol."""
        return self._plain.read_texts()
