"""Serializers: how Python values become the bytes of a message body, and back.

A leaf of the code base: knows nothing of the engine nor of the transports.
"""
