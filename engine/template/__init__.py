"""Runs only in the template: imports the application once, then forks on request."""
