"""One setting: what it is called, takes, means, and whether it does anything here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..unset import UNSET
from .kinds import Kind

if TYPE_CHECKING:
    from typing import TypeVar

    from typing_extensions import dataclass_transform

    C = TypeVar("C", bound=type)

    # A type checker treats every section as a frozen dataclass: attributes are known and read-only.
    @dataclass_transform(frozen_default=True, eq_default=False)
    def section(cls: C) -> C: ...
else:

    def section(cls):
        """Mark a class as a section. Building true dataclasses would double the time of the import."""
        return cls


class Setting(NamedTuple):
    """Everything that is known of one configuration key.

    :param kind: what values it takes.
    :param default: the default, of the type that `kind` keeps; UNSET where it depends on others.
    :param doc: one sentence for the reference page.
    :param unit: unit of a number, or empty.
    :param celery: Celery's own default where ours differs, else UNSET.
    :param old: the upper-case name of Celery before 4.0, or None where there is none.
    :param no_effect: why the key does nothing here; empty when it does something.
    :param ours: the key does not exist in Celery.
    """

    kind: Kind
    default: Any
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

    def fresh_default(self) -> Any:
        """The default, copied where it could be changed in place."""
        return dict(self.default) if isinstance(self.default, dict) else self.default


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
    """Declare a setting in the body of a section; parameters as in `Setting`.

    The declared type is that of the value: a `Config` keeps values in its instance, where they
    hide the declarations.
    """
    return Setting(kind, default, doc, unit, celery, old, no_effect, ours)
