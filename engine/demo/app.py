"""The application of the demonstration. Its worker imports this module like any other app."""

from __future__ import annotations

from ..app import App

app = App("prefork-demo", include=["prefork.engine.demo.tasks"])
