"""Result stores: all others."""

from __future__ import annotations

from typing import Any

from ..kinds import BOOLEAN, COUNT, MAP, NAMES, SECONDS, TEXT, integer, optional
from ..reasons import STORES
from ..setting import section, setting


@section
class StoresCloudSettings:
    """Result stores: all others."""

    mongodb_backend_settings: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "MongoDB: database, taskmeta_collection, groupmeta_collection, max_pool_size, options.",
        old="CELERY_MONGODB_BACKEND_SETTINGS",
        no_effect=STORES,
    )
    elasticsearch_retry_on_timeout: bool | None = setting(
        optional(BOOLEAN),
        None,
        "Retry on timeout.",
        old="CELERY_ELASTICSEARCH_RETRY_ON_TIMEOUT",
        no_effect=STORES,
    )
    elasticsearch_max_retries: int | None = setting(
        optional(COUNT),
        None,
        "Retries.",
        old="CELERY_ELASTICSEARCH_MAX_RETRIES",
        no_effect=STORES,
    )
    elasticsearch_timeout: float | None = setting(
        optional(SECONDS),
        None,
        "Timeout seconds.",
        unit="s",
        old="CELERY_ELASTICSEARCH_TIMEOUT",
        no_effect=STORES,
    )
    elasticsearch_save_meta_as_text: bool = setting(
        BOOLEAN,
        True,
        "Store meta as text instead of native JSON.",
        old="CELERY_ELASTICSEARCH_SAVE_META_AS_TEXT",
        no_effect=STORES,
    )
    cassandra_servers: tuple[str, ...] | None = setting(
        optional(NAMES),
        None,
        "Host list.",
        old="CASSANDRA_SERVERS",
        no_effect=STORES,
    )
    cassandra_port: int | None = setting(
        optional(integer(1, 65535)),
        None,
        "Port.",
        old="CASSANDRA_PORT",
        no_effect=STORES,
    )
    cassandra_keyspace: str | None = setting(
        optional(TEXT),
        None,
        "Keyspace.",
        old="CASSANDRA_KEYSPACE",
        no_effect=STORES,
    )
    cassandra_table: str | None = setting(
        optional(TEXT),
        None,
        "Table.",
        old="CASSANDRA_TABLE",
        no_effect=STORES,
    )
    cassandra_read_consistency: str | None = setting(
        optional(TEXT),
        None,
        "Read consistency.",
        old="CASSANDRA_READ_CONSISTENCY",
        no_effect=STORES,
    )
    cassandra_write_consistency: str | None = setting(
        optional(TEXT),
        None,
        "Write consistency.",
        old="CASSANDRA_WRITE_CONSISTENCY",
        no_effect=STORES,
    )
    cassandra_entry_ttl: float | None = setting(
        optional(SECONDS),
        None,
        "TTL seconds.",
        unit="s",
        old="CASSANDRA_ENTRY_TTL",
        no_effect=STORES,
    )
    cassandra_auth_provider: str | None = setting(
        optional(TEXT),
        None,
        "Auth provider class name.",
        old="CASSANDRA_AUTH_PROVIDER",
        no_effect=STORES,
    )
    cassandra_auth_kwargs: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "Auth provider arguments.",
        old="CASSANDRA_AUTH_KWARGS",
        no_effect=STORES,
    )
    cassandra_options: dict[str, Any] = setting(
        MAP,
        {},
        "Cluster options.",
        old="CASSANDRA_OPTIONS",
        no_effect=STORES,
    )
    cassandra_bundle_path: str | None = setting(
        optional(TEXT),
        None,
        "Secure connect bundle (documented as cassandra_secure_bundle_path).",
        old="CASSANDRA_BUNDLE_PATH",
        no_effect=STORES,
    )
    s3_access_key_id: str | None = setting(
        optional(TEXT),
        None,
        "AWS key id.",
        old="S3_ACCESS_KEY_ID",
        no_effect=STORES,
    )
    s3_secret_access_key: str | None = setting(
        optional(TEXT),
        None,
        "AWS secret.",
        old="S3_SECRET_ACCESS_KEY",
        no_effect=STORES,
    )
    s3_bucket: str | None = setting(
        optional(TEXT),
        None,
        "Bucket.",
        old="S3_BUCKET",
        no_effect=STORES,
    )
    s3_base_path: str | None = setting(
        optional(TEXT),
        None,
        "Key prefix.",
        old="S3_BASE_PATH",
        no_effect=STORES,
    )
    s3_endpoint_url: str | None = setting(
        optional(TEXT),
        None,
        "Custom endpoint.",
        old="S3_ENDPOINT_URL",
        no_effect=STORES,
    )
    s3_region: str | None = setting(
        optional(TEXT),
        None,
        "Region.",
        old="S3_REGION",
        no_effect=STORES,
    )
    azureblockblob_container_name: str = setting(
        TEXT,
        "celery",
        "Container.",
        old="AZUREBLOCKBLOB_CONTAINER_NAME",
        no_effect=STORES,
    )
    azureblockblob_base_path: str = setting(
        TEXT,
        "",
        "Prefix.",
        old="AZUREBLOCKBLOB_BASE_PATH",
        no_effect=STORES,
    )
    azureblockblob_retry_initial_backoff_sec: float = setting(
        SECONDS,
        2.0,
        "First back-off.",
        unit="s",
        old="AZUREBLOCKBLOB_RETRY_INITIAL_BACKOFF_SEC",
        no_effect=STORES,
    )
    azureblockblob_retry_increment_base: int = setting(
        COUNT,
        2,
        "Back-off base.",
        old="AZUREBLOCKBLOB_RETRY_INCREMENT_BASE",
        no_effect=STORES,
    )
    azureblockblob_retry_max_attempts: int = setting(
        COUNT,
        3,
        "Attempts.",
        old="AZUREBLOCKBLOB_RETRY_MAX_ATTEMPTS",
        no_effect=STORES,
    )
    azureblockblob_connection_timeout: float = setting(
        SECONDS,
        20.0,
        "Connect timeout.",
        unit="s",
        old="AZUREBLOCKBLOB_CONNECTION_TIMEOUT",
        no_effect=STORES,
    )
    azureblockblob_read_timeout: float = setting(
        SECONDS,
        120.0,
        "Read timeout.",
        unit="s",
        old="AZUREBLOCKBLOB_READ_TIMEOUT",
        no_effect=STORES,
    )
    gcs_bucket: str | None = setting(
        optional(TEXT),
        None,
        "Bucket.",
        old="GCS_BUCKET",
        no_effect=STORES,
    )
    gcs_project: str | None = setting(
        optional(TEXT),
        None,
        "Project.",
        old="GCS_PROJECT",
        no_effect=STORES,
    )
    gcs_base_path: str = setting(
        TEXT,
        "",
        "Prefix.",
        old="GCS_BASE_PATH",
        no_effect=STORES,
    )
    gcs_ttl: float = setting(
        SECONDS,
        0.0,
        "Object lifetime seconds.",
        unit="s",
        old="GCS_TTL",
        no_effect=STORES,
    )
    couchbase_backend_settings: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "Couchbase: host, port, bucket, username, password.",
        old="CELERY_COUCHBASE_BACKEND_SETTINGS",
        no_effect=STORES,
    )
    arangodb_backend_settings: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "ArangoDB: host, port, database, collection and so on.",
        old="CELERY_ARANGODB_BACKEND_SETTINGS",
        no_effect=STORES,
    )
    cosmosdbsql_database_name: str = setting(
        TEXT,
        "celerydb",
        "Database.",
        old="COSMOSDBSQL_DATABASE_NAME",
        no_effect=STORES,
    )
    cosmosdbsql_collection_name: str = setting(
        TEXT,
        "celerycol",
        "Collection.",
        old="COSMOSDBSQL_COLLECTION_NAME",
        no_effect=STORES,
    )
    cosmosdbsql_consistency_level: str = setting(
        TEXT,
        "Session",
        "Consistency.",
        old="COSMOSDBSQL_CONSISTENCY_LEVEL",
        no_effect=STORES,
    )
    cosmosdbsql_max_retry_attempts: int = setting(
        COUNT,
        9,
        "Retries.",
        old="COSMOSDBSQL_MAX_RETRY_ATTEMPTS",
        no_effect=STORES,
    )
    cosmosdbsql_max_retry_wait_time: float = setting(
        SECONDS,
        30.0,
        "Max wait seconds.",
        unit="s",
        old="COSMOSDBSQL_MAX_RETRY_WAIT_TIME",
        no_effect=STORES,
    )
