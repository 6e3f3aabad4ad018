"""Which processes are servers that tests have started, so that their helpers are nobody's leak."""

from __future__ import annotations

from functools import lru_cache

import psutil


@lru_cache(maxsize=1)
def servers() -> set[int]:
    """The pids of those that run now; who starts or ends one says so here."""
    return set()


def own_processes() -> set[psutil.Process]:
    """All that lives below this process, but not what servers have started when they liked."""
    found = set(psutil.Process().children(recursive=True))
    for pid in tuple(servers()):
        try:
            found -= set(psutil.Process(pid).children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return found
