"""Signed messages."""

from __future__ import annotations

from ..kinds import SECRET, TEXT, optional
from ..reasons import SECURITY
from ..setting import section, setting


@section
class SecuritySettings:
    """Signed messages."""

    security_key: str | None = setting(
        optional(TEXT),
        None,
        "Private key path for the auth serializer.",
        old="CELERY_SECURITY_KEY",
        no_effect=SECURITY,
    )
    security_key_password: str | bytes | None = setting(
        optional(SECRET),
        None,
        "Private key password.",
        old="CELERY_SECURITY_KEY_PASSWORD",
        no_effect=SECURITY,
    )
    security_certificate: str | None = setting(
        optional(TEXT),
        None,
        "Certificate path.",
        old="CELERY_SECURITY_CERTIFICATE",
        no_effect=SECURITY,
    )
    security_cert_store: str | None = setting(
        optional(TEXT),
        None,
        "Glob of trusted certificates.",
        old="CELERY_SECURITY_CERT_STORE",
        no_effect=SECURITY,
    )
    security_digest: str = setting(
        TEXT,
        "sha256",
        "Digest of the signature.",
        old="CELERY_SECURITY_DIGEST",
        no_effect=SECURITY,
    )
