"""The application of the benchmark. Its workers import this module like any other app."""

from __future__ import annotations

from ..app import App

app = App("prefork-bench", include=["prefork.engine.bench.tasks"])
