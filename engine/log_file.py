"""Names of log files: one per node or per child, from a template. Standard library only."""

from __future__ import annotations

import os
import re

_FIELD = re.compile(r"%(.)", re.DOTALL)


class BadLogFileTemplate(ValueError):
    """A log file template has a field that does not exist. Raised at start.

    :param template: the template.
    :param field: the letter after the percent sign.
    """

    def __init__(self, template: str, field: str) -> None:
        fields = (
            "%n (node name), %h (host), %d (domain), %p (name@host), %i and %I (child), %% (a percent sign)"
        )
        super().__init__(f"{template!r}: there is no %{field}; there are {fields}")
        self.template = template
        self.field = field


def has_child_field(template: str) -> bool:
    """Whether each child has a log file of its own."""
    return any(match[1] in "iI" for match in _FIELD.finditer(template))


def expand(template: str, node: str, index: int = 0) -> str:
    """The path of the log file of one process (parity §17).

    ``%n`` is the node name before the ``@``, ``%h`` the host, ``%d`` its domain, ``%p`` the whole,
    ``%i`` the number of the child or 0, ``%I`` the same with a dash before it, nothing for 0.

    :param node: ``name@host``; the name of this host is added where it is missing.
    :raises BadLogFileTemplate: another letter follows a percent sign.
    """
    name, at, host = node.rpartition("@")
    if not at:
        name = node
    if not at or not host:
        host = os.uname().nodename
    name = name or "celery"
    _host, _dot, domain = host.partition(".")
    fields = {
        "n": name,
        "h": host,
        "d": domain,
        "p": f"{name}@{host}",
        "i": str(index),
        "I": f"-{index}" if index else "",
        "%": "%",
    }

    def replace(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise BadLogFileTemplate(template, match[1])
        # A name never leaves the directory that the template puts the file into.
        value = fields[match[1]].replace("/", "_").replace("\0", "_")
        return value if value.strip(".") else "_" * len(value)

    return _FIELD.sub(replace, template)
