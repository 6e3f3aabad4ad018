"""A worker in a thread of this process, with a log file and settings as those of processes have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from prefork.engine import App
from prefork.engine.testing.worker import ThreadWorker as _ThreadWorker


class ThreadWorker(_ThreadWorker):
    """Serves an application of this process, which stays open.

    :param log: what the program logs while the worker runs is appended to this file.
    :param settings: of the worker, on top of the configuration.
    """

    def __init__(
        self,
        app: App,
        *,
        log: Path,
        queues: Sequence[str] = (),
        hostname: str | None = None,
        **settings: object,
    ) -> None:
        super().__init__(app, queues=queues, hostname=hostname)
        self._log_path = log
        self._settings = settings

    def start(self, timeout_s: float = 10.0) -> ThreadWorker:
        """Start, and wait until it is ready."""
        self._handler = logging.FileHandler(self._log_path)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("prefork").addHandler(self._handler)
        logging.getLogger("celery").addHandler(self._handler)
        if self._settings:
            # The program's own client changes with it: not while another worker serves this application.
            self.app.conf.resolve(cli=self._settings)
        super().start(timeout_s)
        return self

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the running task end, then leave."""
        try:
            super().stop(timeout_s)
        finally:
            for name in ("prefork", "celery"):
                logging.getLogger(name).removeHandler(self._handler)
            self._handler.close()
