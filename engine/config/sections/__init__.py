"""The settings, one file per section of the reference page."""
