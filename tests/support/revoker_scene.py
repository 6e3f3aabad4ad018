"""A revoker without an agent around it."""

from __future__ import annotations

import logging
from typing import Any

from prefork.engine.app import App
from prefork.engine.revoked_board import RevokedBoard
from prefork.engine.revoked_keys import slot_id
from prefork.engine.revoker import Revoker
from prefork.engine.scoreboard import C_RUNNING, S_GENERATION, S_HIGH_SLOT, S_PID, Scoreboard
from prefork.engine.storage import Storage, open_storage
from support.one_child import WORKER


class Scene:
    """A scoreboard, a storage, and what was asked of the supervisor."""

    def __init__(self, app: App, storage: Storage | None = None, board: Scoreboard | None = None) -> None:
        self.app = app
        self.board = board or Scoreboard()
        self.revoked = RevokedBoard(self.board.buffer)
        self.storage = storage or open_storage(app)
        self.asked: list[dict[str, Any]] = []
        self.revoker = self.another()

    def another(self, *, alone: bool = False) -> Revoker:
        """What a successor of the agent has; `alone`: a worker of one process."""
        log = logging.getLogger("test")
        end = None if alone else self.asked.append
        return Revoker(self.board, self.storage, self.app.config, log, worker_id=WORKER, end=end)

    def runs(self, index: int, task_id: str, execution: int = 1, tag: bytes = b"tag") -> None:
        slot = self.board.slot(index)
        self.board.words[S_HIGH_SLOT] = max(self.board.words[S_HIGH_SLOT], index + 1)
        slot.words[S_PID], slot.words[S_GENERATION] = 100 + index, 1
        slot.write_texts(slot_id(task_id), b"work", tag)
        slot.words[C_RUNNING] = execution
