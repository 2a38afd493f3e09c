"""The embedded ClickHouse of the trial stack and of the tests: chDB behind a small HTTP server.

chDB is the real ClickHouse engine in a Python process, without its network side. This package
speaks enough of ClickHouse's HTTP interface over it for clickhouse-connect and curl, so that
several processes can share one engine, as they would share a server.

    server.py      sockets, threads, HTTP/1.1: who may ask, and how many at once
    body.py        request bodies: read whole (or refused), unpacked, spooled to memory
    form.py        parameters that come in the body
    statement.py   the little that must be known about a statement's text
    answer.py      one request -> engine calls -> one answer, in ClickHouse's own words
    engine.py      chDB, in its three generations
    mending.py     the deduplication logs, put right before the engine opens them
    __main__.py    the command: arguments, lock, order of start and stop

It imports the standard library and chDB only (zstandard and lz4 where they are installed), so any
interpreter that has a chDB can run it: that is how older engines are tested.
"""
