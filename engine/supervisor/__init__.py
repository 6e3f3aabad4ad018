"""Runs only in the supervisor: forks, watches, limits, kills, recycles, scales, stops.

Imports no transport, no task and no user code; standard library only (design §3).
"""
