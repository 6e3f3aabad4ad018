"""The scripts that the server runs: one file each in ``lua/``, package data.

A line ``--- include NAME`` stands for the fragment ``lua/NAME.lua``, which defines local functions. The
rules that every script keeps (design §4.3): the types of its keys and the fence are checked before
the first write; the first write frees memory; every key it touches is passed in KEYS.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, Final

import msgpack

from .link import Script, script

_INCLUDE = re.compile(r"^--- include (\w+)$", re.MULTILINE)


def read_script(name: str) -> Script:
    """Read a script of this package with the fragments that it includes."""
    return script(name, _read(name).encode("utf-8"))


def _read(name: str) -> str:
    text = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: _read(found[1]), text)


def encode_for_lua(value: Any) -> bytes:
    """Encode an argument for ``cmsgpack.unpack``, which knows texts only and no binaries."""
    data: bytes = msgpack.packb(value, use_bin_type=False)
    return data


ACK: Final = read_script("ack")
DEAD_REPLAY: Final = read_script("dead_replay")
EXTEND: Final = read_script("extend")
FENCE: Final = read_script("fence")
FORGET_OWNER: Final = read_script("forget_owner")
FORGET_WORKER: Final = read_script("forget_worker")
FREE_SLOT: Final = read_script("free_slot")
HEARTBEAT: Final = read_script("heartbeat")
INFORM: Final = read_script("inform")
LOCK: Final = read_script("lock")
MARK_STARTED: Final = read_script("mark_started")
PREFLIGHT: Final = read_script("preflight")
PROLONG: Final = read_script("prolong")
PROMOTE: Final = read_script("promote")
PUBLISH: Final = read_script("publish")
PURGE: Final = read_script("purge")
REGISTER: Final = read_script("register")
RELEASE: Final = read_script("release")
RESERVE: Final = read_script("reserve")
RESTORE: Final = read_script("restore")
RETURN: Final = read_script("return")
REVOKE: Final = read_script("revoke")
SETTLE: Final = read_script("settle")
SWEEP_SLOTS: Final = read_script("sweep_slots")
TAKE_SLOT: Final = read_script("take_slot")
TAKE_TOKENS: Final = read_script("take_tokens")
UNLOCK: Final = read_script("unlock")
