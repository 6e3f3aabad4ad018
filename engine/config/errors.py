"""What is wrong with a configuration, all of it at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..exceptions import ImproperlyConfigured


class Problem(NamedTuple):
    """One thing that is wrong.

    :param key: the setting, or a name that is none.
    :param value: what was given, as it may be shown (secrets masked), or empty.
    :param source: where it was given, for example ``env PREFORK_TASK_TIME_LIMIT``.
    :param remedy: what is wrong and what to write instead.
    """

    key: str
    value: str
    source: str
    remedy: str

    def __str__(self) -> str:
        shown = f"{self.key} = {self.value}" if self.value else self.key
        return f"{shown} ({self.source}): {self.remedy}"


class ConfigError(ImproperlyConfigured):
    """The configuration cannot be used. Raised when it is first needed; fix every problem listed.

    :param problems: at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        # Plain lists where they were stored.
        self.problems = tuple(Problem(*problem) for problem in problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "the configuration has a problem" if count == 1 else f"the configuration has {count} problems"
        return "\n  ".join([f"{head}:", *(str(problem) for problem in self.problems)])


class ConfigFrozen(ImproperlyConfigured, AttributeError):
    """Somebody tried to change a resolved `Config`; change ``app.conf`` instead.

    :param key: the attribute.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"{self.key}: a resolved configuration cannot be changed; set app.conf.{self.key} instead"
