"""The warnings of the engine; users find them in `exceptions`."""

from __future__ import annotations


class PreforkWarning(UserWarning):
    """Base of the engine's warnings."""


CeleryWarning = PreforkWarning


class AlwaysEagerIgnored(PreforkWarning):
    """`send_task` has no task to run in process, so `task_always_eager` does not apply to it."""


class DuplicateNodenameWarning(PreforkWarning):
    """Several workers answer to one node name."""


class DuplicateTaskNameWarning(PreforkWarning):
    """Two different functions were registered as one task name; the first one stays."""


class FixupWarning(PreforkWarning):
    """The integration with a web framework does not work."""


class MisspeltOptionWarning(PreforkWarning):
    """A task was given an option that does not exist and looks much like one that does."""


class NotConfigured(PreforkWarning):
    """No configuration was found."""


class SecurityWarning(PreforkWarning):
    """Something is less safe than it could be."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Something will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Something is deprecated."""
