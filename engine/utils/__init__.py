"""Public names that users of Celery import from ``utils``; nothing else belongs here."""
