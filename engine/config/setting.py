"""One setting: what it is called, takes, means, and whether it does anything here."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from typing import Any

from ..unset import UNSET
from .kinds import Kind


@dataclass(frozen=True)
class Setting:
    """Everything that is known of one configuration key.

    :param kind: what values it takes.
    :param doc: one sentence for the reference page.
    :param unit: unit of a number, or empty.
    :param celery: Celery's own default where ours differs, else UNSET.
    :param old: the upper-case name of Celery before 4.0, or empty where there is none.
    :param no_effect: why the key does nothing here; empty when it does something.
    :param ours: the key does not exist in Celery.
    """

    kind: Kind
    doc: str
    unit: str = ""
    celery: Any = UNSET
    old: str | None = None
    no_effect: str = ""
    ours: bool = False

    @property
    def has_effect(self) -> bool:
        """Whether setting the key changes anything."""
        return not self.no_effect


def setting(
    kind: Kind,
    default: Any,
    doc: str,
    *,
    unit: str = "",
    celery: Any = UNSET,
    old: str | None = None,
    no_effect: str = "",
    ours: bool = False,
) -> Any:
    """The dataclass field of one setting; parameters as in `Setting`."""
    facts = {"setting": Setting(kind, doc, unit, celery, old, no_effect, ours)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=facts)
    return field(default=default, metadata=facts)


def setting_of(declared: Field[Any]) -> Setting:
    """The `Setting` behind a dataclass field."""
    found: Setting = declared.metadata["setting"]
    return found


def default_of(declared: Field[Any]) -> Any:
    """A fresh default value of a dataclass field."""
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return declared.default
