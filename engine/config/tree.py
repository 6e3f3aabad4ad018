"""The resolved configuration: one frozen, typed, flat object, and the table of what it may hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .errors import ConfigFrozen
from .sections.beat import BeatSettings
from .sections.broker import BrokerSettings
from .sections.events import EventsSettings
from .sections.general import GeneralSettings
from .sections.programs import ProgramsSettings
from .sections.results import ResultsSettings
from .sections.routing import RoutingSettings
from .sections.security import SecuritySettings
from .sections.stores import StoresSettings
from .sections.stores_cloud import StoresCloudSettings
from .sections.tasks import TasksSettings
from .sections.worker import WorkerSettings
from .sections.worker_logs import WorkerLogsSettings
from .setting import Setting, section

SECTIONS: tuple[type, ...] = (
    GeneralSettings,
    BrokerSettings,
    TasksSettings,
    RoutingSettings,
    ResultsSettings,
    WorkerSettings,
    WorkerLogsSettings,
    EventsSettings,
    BeatSettings,
    SecuritySettings,
    StoresSettings,
    StoresCloudSettings,
    ProgramsSettings,
)

DEFAULT_SOURCE = "default"


@section
class Config(
    GeneralSettings,
    BrokerSettings,
    TasksSettings,
    RoutingSettings,
    ResultsSettings,
    WorkerSettings,
    WorkerLogsSettings,
    EventsSettings,
    BeatSettings,
    SecuritySettings,
    StoresSettings,
    StoresCloudSettings,
    ProgramsSettings,
):
    """Every setting as an attribute, checked and complete. Made by `PendingConfig.resolve`.

    :param values: one value for each key of `SETTINGS`.
    :param sources: where each value that is not a default came from.
    """

    def __init__(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        # One writer: this constructor. Instance values hide the class-level declarations.
        self.__dict__.update(values)
        self.__dict__["_sources"] = dict(sources)

    if not TYPE_CHECKING:  # a type checker knows already that the attributes are read-only

        def __setattr__(self, name, value):
            raise ConfigFrozen(name)

        def __delattr__(self, name):
            raise ConfigFrozen(name)

    def __repr__(self) -> str:
        given: dict[str, str] = self.__dict__["_sources"]
        return f"<Config: {len(given)} of {len(SETTINGS)} settings given>"

    def source(self, key: str) -> str:
        """Where the value of a key came from, ``default`` for one that nobody gave."""
        sources: dict[str, str] = self.__dict__["_sources"]
        return sources.get(key, DEFAULT_SOURCE)

    def is_given(self, key: str) -> bool:
        """Whether anybody gave a value for the key."""
        return key in self.__dict__["_sources"]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default` for a name that is no setting."""
        return self.__dict__[key] if key in SETTINGS else default

    def keys(self) -> Iterator[str]:
        """The names of all settings."""
        return iter(SETTINGS)

    def items(self) -> Iterator[tuple[str, Any]]:
        """All settings and their values."""
        return ((key, self.__dict__[key]) for key in SETTINGS)

    def __getitem__(self, key: str) -> Any:
        if key not in SETTINGS:
            raise KeyError(key)
        return self.__dict__[key]

    def __contains__(self, key: object) -> bool:
        return key in SETTINGS

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {name: fact for part in SECTIONS for name, fact in vars(part).items() if isinstance(fact, Setting)}
)
"""Every key, in the order of the reference page."""

OLD_NAMES: Mapping[str, str] = MappingProxyType({s.old: name for name, s in SETTINGS.items() if s.old})
"""Upper-case names of Celery before 4.0, and the key of today."""
