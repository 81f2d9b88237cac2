"""What a pool library can do at best: acquire, one statement, release, as fast as some threads can, and nothing else.

    python tests/benchmarks/bare_pools.py KIND CONNINFO THREADS STATEMENT CORE WARMUP

Prints "ready" when its connections are open, reads a number of seconds, and runs for WARMUP and then for so many
seconds. Prints the requests of these seconds, the requests of both, and the processor seconds since it began to open
connections. The statement runs as in poolctl's instances: through libpq's own call, whose status is read, and in a
process that stays on CORE (unless that is "-"). The difference to these figures is what poolctl adds.
``psycopg_pool/execute`` is the loop as programs write it, through psycopg's own execute().
``database/sql`` is the same loop without any pool: one thread over non-blocking libpq connections.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

Act = Callable[[Any], Any]

PACKAGES = {
    "database/sql": ["psycopg"],
    "psycopg_pool": ["psycopg_pool"],
    "psycopg_pool/execute": ["psycopg_pool"],
    "psycopg2": ["psycopg2.pool"],
    "sqlalchemy": ["sqlalchemy", "sqlalchemy.dialects.postgresql.psycopg"],
}

TUPLES_OK = 2
"""libpq's PGRES_TUPLES_OK."""

STATEMENT = ""
"""Set by main()."""


def psycopg_pool(conninfo: str, size: int) -> tuple[Callable[[], Any], Act, Act]:
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(conninfo, min_size=size, max_size=size, kwargs={"autocommit": True}, configure=_prepare)
    pool.wait()
    return pool.getconn, _run_prepared, pool.putconn


def psycopg_pool_execute(conninfo: str, size: int) -> tuple[Callable[[], Any], Act, Act]:
    acquire, _, release = psycopg_pool(conninfo, size)
    return acquire, lambda connection: connection.execute(STATEMENT), release


def psycopg2(conninfo: str, size: int) -> tuple[Callable[[], Any], Act, Act]:
    from psycopg2.pool import ThreadedConnectionPool

    pool = ThreadedConnectionPool(size, size, conninfo)
    connections = [pool.getconn() for _ in range(size)]
    for connection in connections:
        connection.autocommit = True
        pool.putconn(connection)
    return pool.getconn, lambda connection: connection.cursor().execute(STATEMENT), pool.putconn


def sqlalchemy(conninfo: str, size: int) -> tuple[Callable[[], Any], Act, Act]:
    import psycopg
    from sqlalchemy import create_engine
    from sqlalchemy.pool import QueuePool

    def connect() -> Any:
        connection = psycopg.connect(conninfo, autocommit=True)
        _prepare(connection)
        return connection

    engine = create_engine(
        "postgresql+psycopg://", creator=connect, poolclass=QueuePool, pool_size=size, max_overflow=0
    )
    connections = [engine.raw_connection() for _ in range(size)]
    for connection in connections:
        connection.close()
    return (
        engine.raw_connection,
        lambda connection: _run_prepared(connection.dbapi_connection),
        lambda connection: connection.close(),
    )


def threads(kind: str, conninfo: str, size: int) -> Callable[[float], int]:
    opened: dict[str, Callable[[str, int], tuple[Callable[[], Any], Act, Act]]] = {
        "psycopg_pool": psycopg_pool,
        "psycopg_pool/execute": psycopg_pool_execute,
        "psycopg2": psycopg2,
        "sqlalchemy": sqlalchemy,
    }
    acquire, run, release = opened[kind](conninfo, size)
    counts = [0] * size

    def loop(number: int, end: float) -> None:
        count = 0
        while time.monotonic() < end:
            connection = acquire()
            run(connection)
            release(connection)
            count += 1
        counts[number] = count

    def go(seconds: float) -> int:
        end = time.monotonic() + seconds
        workers = [threading.Thread(target=loop, args=(number, end)) for number in range(size)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts)

    return go


def no_pool(conninfo: str, size: int) -> Callable[[float], int]:
    from psycopg import pq

    connections = {}
    for _ in range(size):
        connection = pq.PGconn.connect(conninfo.encode())
        connection.prepare(b"bench", STATEMENT.encode())
        connection.nonblocking = 1
        connections[connection.socket] = connection
    poll = select.poll()
    for socket in connections:
        poll.register(socket, select.POLLIN)
    for connection in connections.values():
        connection.send_query_prepared(b"bench", None)

    def go(seconds: float) -> int:
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for socket, _ in poll.poll():
                connection = connections[socket]
                connection.consume_input()
                if connection.is_busy():
                    continue
                while connection.get_result() is not None:
                    pass
                count += 1
                connection.send_query_prepared(b"bench", None)
        return count

    return go


def _prepare(connection: Any) -> None:
    connection.pgconn.prepare(b"bench", STATEMENT.encode())


def _run_prepared(connection: Any) -> None:
    if connection.pgconn.exec_prepared(b"bench", None).status != TUPLES_OK:
        raise SystemExit("the statement failed")


def main() -> None:
    global STATEMENT
    kind, conninfo, size, STATEMENT, core, warmup = sys.argv[1:]
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    for package in PACKAGES[kind]:
        import_module(package)
    cpu = time.process_time()
    go = no_pool(conninfo, int(size)) if kind == "database/sql" else threads(kind, conninfo, int(size))
    print("ready", flush=True)
    seconds = float(sys.stdin.readline())
    before, measured = go(float(warmup)), go(seconds)
    print(measured, before + measured, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
