"""`prefork demo`: the real engine, real work, planned misfortunes."""
