"""Going into the background and dropping privileges, before the supervisor's interpreter starts."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from .failures import CommandError, ExitCode


@dataclass(frozen=True)
class Privileges:
    """Who the worker is to run as. None keeps what this process has."""

    uid: int | None
    gid: int | None
    umask: int | None
    user: str | None = None

    @classmethod
    def named(cls, user: str | None, group: str | None, umask: str | None) -> Privileges:
        """Look up names or numbers.

        :raises CommandError: no such user or group, or a mask that is not octal.
        """
        uid, gid, name = None, None, None
        try:
            if user is not None:
                entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
                uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
            if group is not None:
                gid = (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
        except (KeyError, OverflowError) as error:
            raise CommandError(f"--uid/--gid: {error.args[0]}", ExitCode.USAGE) from error
        try:
            mask = None if umask is None else int(umask, 8)
        except ValueError as error:
            raise CommandError(f"--umask {umask}: an octal number such as 027", ExitCode.USAGE) from error
        return cls(uid, gid, mask, name)

    def apply(self) -> None:
        """Become that user, group first, while this process may still change it.

        :raises CommandError: this process may not.
        """
        try:
            if self.umask is not None:
                os.umask(self.umask)
            if self.gid is not None and self.gid != os.getgid():
                os.setgid(self.gid)
            if self.uid is not None and self.uid != os.getuid():
                os.initgroups(self.user or "", os.getgid())
                os.setuid(self.uid)
        except PermissionError as error:
            raise CommandError(f"--uid/--gid: not permitted; start as root: {error}") from error


def detach(logfile: str | None) -> None:
    """Continue in a session of one's own, without a terminal; the parent returns to the shell.

    Output that is not logged goes to the log file, or nowhere.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    # Once more: a session leader could get a controlling terminal by opening one.
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    plain = logfile is not None and "%" not in logfile
    sink = os.open(logfile, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if plain and logfile else null
    os.dup2(null, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
