"""kombu's filesystem transport, read and written in a way that loses nothing.

The format is kombu's (interop §7). kombu writes a message in place and takes a file away without
looking whether it is complete; here a file appears whole, and one that somebody still writes is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from queue import Empty
from time import monotonic_ns
from typing import Any

from kombu.transport import filesystem as kombu_filesystem
from kombu.utils import json as kombu_json

from ..identifiers import fresh_id

# kombu declares no types.
_Channel: Any = kombu_filesystem.Channel
_Transport: Any = kombu_filesystem.Transport
_dumps: Any = kombu_json.dumps
_loads: Any = kombu_json.loads


class WholeFilesChannel(_Channel):  # type: ignore[misc]
    """Puts and gets whole files, in the order in which one process put them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for folder in (self.data_folder_in, self.data_folder_out):
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        now_ns = monotonic_ns()
        # As kombu's own: milliseconds first, the name of the queue last.
        name = f"{now_ns // 1_000_000}_{now_ns:020d}-{fresh_id()}.{queue}.msg"
        folder = Path(self.data_folder_out)
        temporary = folder / f".{fresh_id()}"
        temporary.write_bytes(str(_dumps(payload)).encode("utf-8"))
        temporary.rename(folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = Path(self.data_folder_in)
        wanted = f"{queue}.msg"
        for name in sorted(os.listdir(folder)):
            if name.startswith(".") or name.partition(".")[2] != wanted or not _is_whole(folder / name):
                continue
            taken = folder / f".{fresh_id()}"
            try:
                (folder / name).rename(taken)
            except FileNotFoundError:
                continue  # another reader was first
            return self._read(taken, name)
        raise Empty

    def _read(self, taken: Path, name: str) -> Any:
        data = taken.read_bytes()
        try:
            payload = _loads(data.decode("utf-8"))
        # UnicodeDecodeError and JSONDecodeError are both of this kind; so is an unknown extended type.
        except ValueError:
            aside = taken.with_name(f"{name}.unreadable")
            taken.rename(aside)
            raise
        if self.store_processed:
            taken.rename(Path(self.processed_folder) / name)
        else:
            taken.unlink()
        return payload


class WholeFilesTransport(_Transport):  # type: ignore[misc]
    """kombu's transport with the channel above."""

    Channel = WholeFilesChannel


def _is_whole(path: Path) -> bool:
    """Whether nobody writes to a file any more: kombu makes it, locks it, writes, and lets it go."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(file.fileno()).st_size > 0  # an empty one is made, and not locked yet
    return False
