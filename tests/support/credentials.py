"""A credential provider as applications have them: it reads a file that somebody else replaces."""

from __future__ import annotations

import os
from pathlib import Path


class FromFile:
    """The user ``app``, with the password that STRESS_PASSWORD_FILE holds just now."""

    def get_credentials(self) -> tuple[str, str]:
        """User and password."""
        return "app", Path(os.environ["STRESS_PASSWORD_FILE"]).read_text()
