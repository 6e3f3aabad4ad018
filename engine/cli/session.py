"""What a command needs of an application: the app itself, its broker and its result store.

Errors of everything below become one line and an exit code here.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...serializers.base import SerializerError
from ...transports.base import Transport
from ...transports.errors import BrokerUnavailable, ResultStoreUnavailable, TransportError
from ...transports.url import InvalidUrl, redact
from ..app import App
from ..config import Config, ConfigError
from ..discovery import find_app
from ..exceptions import AppNotFound, ImproperlyConfigured
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .surroundings import enter


@contextmanager
def session(options: GlobalOptions) -> Iterator[App]:
    """An application with the command line's configuration, closed afterwards.

    Without ``-A`` it is an application without tasks, which is enough to look at a broker that
    ``-b`` or the environment names.

    :raises CommandError: in place of whatever the application, configuration or broker raises.
    """
    with explained():
        app = _application(options)
        app.conf.resolve(cli=_overrides(options))
        try:
            yield app
        finally:
            app.close()


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors that a user can do something about into `CommandError`."""
    try:
        yield
    except AppNotFound as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except (ConfigError, ImproperlyConfigured) as error:
        raise CommandError(str(error), ExitCode.CONFIG) from error
    except (BrokerUnavailable, ResultStoreUnavailable) as error:
        raise CommandError(str(error), ExitCode.UNAVAILABLE) from error
    except (TransportError, InvalidUrl, SerializerError) as error:
        raise CommandError(str(error), ExitCode.CONFIG) from error


def transport_of(app: App) -> Transport:
    """The broker of an application."""
    return app.client.transport


def config_of(app: App) -> Config:
    """The configuration of an application, checked."""
    return app.conf.resolve()


def _application(options: GlobalOptions) -> App:
    enter(options)
    # An installed command has the directory of the command on the path, not the user's own.
    sys.path.insert(0, os.getcwd())
    if options.app is not None:
        return _found(options.app)
    app = App("prefork")
    if options.broker is None and not app.conf.resolve().is_given("broker_url"):
        raise CommandError(
            "which broker? Give -A MODULE[:ATTRIBUTE], -b URL, or set PREFORK_APP or PREFORK_BROKER_URL",
            ExitCode.USAGE,
        )
    return app


def _found(where: str) -> App:
    try:
        return find_app(where)
    except ImproperlyConfigured as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except Exception as error:
        # Whatever the user's own module raises when it is imported: said with its place, not shown
        # as a traceback through this program.
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        raise CommandError(f"-A {where}: importing it failed: {redact(what)}") from error


def _overrides(options: GlobalOptions) -> dict[str, Any]:
    given = {"broker_url": options.broker, "result_backend": options.result_backend}
    return {key: value for key, value in given.items() if value is not None}
