"""The kombu envelope: one JSON document per message, on every transport that stores documents.

Facts: interop §1.1. The decoder is typed and makes one pass; what it refuses although stdlib JSON
would take it (NaN, lone surrogates, loose header types) is tried once more with stdlib ``json``
before the message is called malformed.
"""
