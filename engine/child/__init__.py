"""Runs only in children: the worker loop and what surrounds it."""
