"""Runs only in the agent: the worker's housekeeper towards the broker."""
