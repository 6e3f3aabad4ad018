"""Remote control, seen from the client: requests to workers and their replies (interop §11).

`client` is ``app.control``, `inspect` is what it returns; `wire` is the form of requests and replies,
which `prefork.engine.responder` reads and writes on the side of the worker.
"""
