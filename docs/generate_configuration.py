"""Writes docs/reference/configuration.md from the settings themselves. A test compares the two.

Run it as ``python docs/generate_configuration.py``.
"""

from __future__ import annotations

from pathlib import Path

from prefork.engine.config.setting import Setting
from prefork.engine.config.tree import SECTIONS
from prefork.engine.unset import UNSET

PAGE = Path(__file__).parent / "reference" / "configuration.md"

HEAD = """# Configuration

Every setting has Celery's name, in lower case; a `celeryconfig` module works as it is. How to give
them is in [Configure an application](../how-to/configure.md). This page is made from the program by
`docs/generate_configuration.py`.

A setting of Celery's that has nothing to act on here is accepted, and listed once when a worker
starts; it is marked *no effect* below. A name that is neither Celery's nor ours is refused, with the
nearest name that exists. In the environment a setting is `PREFORK_` and its name in upper case.

## Defaults that differ from Celery's

| setting | here | Celery |
|---|---|---|
"""


def page() -> str:
    """The page as it should be."""
    lines = [HEAD + "\n".join(_different())]
    for part in SECTIONS:
        title = (part.__doc__ or part.__name__).rstrip(".")
        lines.append(f"\n## {title}\n\n| setting | takes | default | meaning |\n|---|---|---|---|")
        lines += [_row(name, fact) for name, fact in vars(part).items() if isinstance(fact, Setting)]
    return "\n".join(lines) + "\n"


def _different() -> list[str]:
    return [
        f"| `{name}` | {_value(fact.default)} | {_value(fact.celery)} |"
        for part in SECTIONS
        for name, fact in vars(part).items()
        if isinstance(fact, Setting) and fact.celery is not UNSET
    ]


def _row(name: str, fact: Setting) -> str:
    meaning = fact.doc
    if fact.no_effect:
        meaning = f"*No effect: {fact.no_effect}.* {meaning}"
    if fact.ours:
        meaning = f"{meaning} (Not in Celery.)"
    takes = f"{fact.kind.name}, {fact.unit}" if fact.unit else fact.kind.name
    return f"| `{name}` | {_cell(takes)} | {_value(fact.default)} | {_cell(meaning)} |"


def _value(value: object) -> str:
    return "depends" if value is UNSET else f"`{_cell(repr(value))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
