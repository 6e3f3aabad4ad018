"""Wraps a connected socket in TLS. Imported only when a connection asks for it."""

from __future__ import annotations

import socket
import ssl

from .tls_settings import CERT_NONE, TlsSettings


def wrap(sock: socket.socket, settings: TlsSettings, host: str) -> ssl.SSLSocket:
    """Shake hands over a connected socket, within its timeout.

    :param host: the name that the certificate must bear.
    :raises OSError: (`ssl.SSLError`) the certificate or the files of the settings are no good.
    """
    # An authority that is named replaces those of the system, and does not join them.
    context = ssl.create_default_context(
        cafile=settings.ca_certs or None,
        capath=settings.ca_path or None,
        cadata=settings.ca_data or None,
    )
    context.check_hostname = settings.check_hostname and settings.cert_reqs != CERT_NONE
    context.verify_mode = ssl.VerifyMode(settings.cert_reqs)
    if settings.certfile:
        context.load_cert_chain(settings.certfile, settings.keyfile or None, settings.password or None)
    if settings.min_version:
        context.minimum_version = ssl.TLSVersion[settings.min_version]
    if settings.ciphers:
        context.set_ciphers(settings.ciphers)
    return context.wrap_socket(sock, server_hostname=host)
