"""The speeds of all engines as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from .engines import BARE
from .plan import BULK, DRAIN, DRAIN_RESULTS, SEND, Raw
from .report import summary

_OURS, _THEIRS = "#2f6f4f", "#9aa5b1"


def draw(raw: Raw, path: Path) -> None:
    """Write a PNG with one panel per measure, on a logarithmic scale, extremes as whiskers."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        ("drain, results off, tasks/s", _bars(raw, DRAIN, "per_s")),
        ("drain, results stored, tasks/s", _bars(raw, DRAIN_RESULTS, "per_s")),
        ("one message at a time, messages/s", _sent(raw)),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 3.6))
    for axis, (title, bars) in zip(axes, panels):
        names = list(bars)[::-1]
        medians = [bars[name][0] for name in names]
        spread = [[bars[n][0] - bars[n][1] for n in names], [bars[n][2] - bars[n][0] for n in names]]
        colours = [_OURS if name.startswith("prefork") else _THEIRS for name in names]
        axis.barh(names, medians, xerr=spread, color=colours, ecolor="#444444", capsize=2)
        for position, median in enumerate(medians):
            axis.text(median * 1.25, position, f"{median:,.0f}", va="center", fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(100, 1_000_000)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def _bars(raw: Raw, measure: str, name: str) -> dict[str, tuple[float, float, float]]:
    found = {row: summary(raw, measure, row, name) for row in raw.get(measure, {})}
    return {row: tuple(one) for row, one in found.items() if one is not None}


def _sent(raw: Raw) -> dict[str, tuple[float, float, float]]:
    sent = _bars(raw, SEND, "sent_per_s")
    bulk = {f"{name}, bulk": one for name, one in _bars(raw, BULK, "sent_per_s").items()}
    bare = {name: sent.pop(name) for name in (BARE.name,) if name in sent}
    return sent | _bars(raw, DRAIN, "sent_per_s") | bare | bulk
