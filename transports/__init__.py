"""Brokers and result stores: one folder per technology, one conformance suite for all.

`transports.base` holds the ports, `transports.registry` opens an implementation by URL. Nothing is
imported here, so that a process pays only for the transport it uses.
"""
