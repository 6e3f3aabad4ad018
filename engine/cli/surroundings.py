"""What global options change in the process itself, before an application is looked for.

No application, no configuration: `prefork worker` does no more than this before it becomes the
supervisor.
"""

from __future__ import annotations

import os

from setproctitle import setproctitle

from .failures import CommandError, ExitCode
from .options import GlobalOptions

# As `engine.config.sources` reads them. Named here again because importing the configuration would
# cost the start of a worker more than everything else that happens before it; a test compares.
CONFIG_FILE_VARIABLE = "PREFORK_CONFIG"
CONFIG_MODULE_VARIABLE = "CELERY_CONFIG_MODULE"


TITLE = "prefork (arguments hidden: they name a broker or a result store)"


def hide_arguments() -> None:
    """Take the arguments out of the process list: a URL among them may have a password in it."""
    setproctitle(TITLE)


def enter(options: GlobalOptions) -> None:
    """Go where ``--workdir`` says, and tell this process and what it becomes of ``--config``.

    :raises CommandError: there is no such directory.
    """
    if options.broker is not None or options.result_backend is not None:
        hide_arguments()
    if options.workdir is not None:
        try:
            os.chdir(options.workdir)
        except OSError as error:
            raise CommandError(f"--workdir {options.workdir}: {error.strerror}", ExitCode.USAGE) from error
    if options.config is not None:
        is_file = options.config.endswith(".toml")
        os.environ[CONFIG_FILE_VARIABLE if is_file else CONFIG_MODULE_VARIABLE] = options.config
