"""TLS options, without importing the TLS library: most connections have none.

Chain and host name are verified unless the options say otherwise, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .option_values import Options, invalid_option

CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED = 0, 1, 2
_REQUIREMENTS = {"none": CERT_NONE, "optional": CERT_OPTIONAL, "required": CERT_REQUIRED}
_VERSIONS = ("TLSv1_2", "TLSv1_3")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How a connection is secured.

    :param cert_reqs: `CERT_NONE`, `CERT_OPTIONAL` or `CERT_REQUIRED` (numbers of the ssl module).
    :param min_version: name of a member of ``ssl.TLSVersion``, or empty.
    """

    cert_reqs: int = CERT_REQUIRED
    check_hostname: bool = True
    ca_certs: str = ""
    ca_path: str = ""
    ca_data: str = ""
    certfile: str = ""
    keyfile: str = ""
    password: str = field(default="", repr=False)
    ciphers: str = ""
    min_version: str = ""


def read_tls(values: Options, nested: Any) -> TlsSettings:
    """Read ``ssl_...`` options.

    :param nested: a map of the same, with or without the ``ssl_`` (``broker_use_ssl``); `values` wins.
    :raises InvalidOption: one has a value that it cannot have.
    """
    merged = Options({**_prefixed(nested), **_given(values)})
    reqs = _requirement(merged.raw("ssl_cert_reqs"))
    return TlsSettings(
        cert_reqs=reqs,
        check_hostname=reqs != CERT_NONE and merged.flag("ssl_check_hostname", True),
        ca_certs=merged.text("ssl_ca_certs"),
        ca_path=merged.text("ssl_ca_path"),
        ca_data=merged.text("ssl_ca_data"),
        certfile=merged.text("ssl_certfile"),
        keyfile=merged.text("ssl_keyfile"),
        password=merged.text("ssl_password"),
        ciphers=merged.text("ssl_ciphers"),
        min_version=_version(merged.raw("ssl_min_version")),
    )


TLS_NAMES = (
    "cert_reqs",
    "check_hostname",
    "ca_certs",
    "ca_path",
    "ca_data",
    "certfile",
    "keyfile",
    "password",
    "ciphers",
    "min_version",
)


def _prefixed(nested: Any) -> dict[str, Any]:
    if not isinstance(nested, Mapping):
        return {}
    return {str(key) if str(key).startswith("ssl_") else f"ssl_{key}": value for key, value in nested.items()}


def _given(values: Options) -> dict[str, Any]:
    found = {f"ssl_{name}": values.raw(f"ssl_{name}") for name in TLS_NAMES}
    return {name: value for name, value in found.items() if value is not None}


def _requirement(value: Any) -> int:
    if value is None:
        return CERT_REQUIRED
    if isinstance(value, int) and not isinstance(value, bool) and int(value) in _REQUIREMENTS.values():
        return int(value)
    word = str(value).lower()
    word = word[len("cert_") :] if word.startswith("cert_") else word
    if word in _REQUIREMENTS:
        return _REQUIREMENTS[word]
    raise invalid_option("ssl_cert_reqs", value, "must be none, optional or required")


def _version(value: Any) -> str:
    if value is None:
        return ""
    name = str(getattr(value, "name", value)).replace(".", "_")
    name = name if name.startswith("TLSv") else f"TLSv{name}"
    if name not in _VERSIONS:
        raise invalid_option("ssl_min_version", value, f"must be one of {', '.join(_VERSIONS)}")
    return name
