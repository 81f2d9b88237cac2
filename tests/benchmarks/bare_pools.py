"""What a pool library can do at best: acquire, SELECT 1, release, as fast as some threads can, and nothing else.

    python tests/benchmarks/bare_pools.py KIND CONNINFO THREADS

Prints "ready" when its connections are open, reads a number of seconds, runs for so long, and prints the number of
requests. The statement runs as in poolctl's instances, so that the difference to this figure is what poolctl adds.
``database/sql`` is the same loop without any pool: one thread over non-blocking libpq connections.
"""

import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Act = Callable[[Any], Any]


def psycopg_pool(conninfo: str, size: int) -> tuple[Callable[[], Any], Act, Act]:
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(conninfo, min_size=size, max_size=size, kwargs={"autocommit": True}, configure=_prepare)
    pool.wait()
    return pool.getconn, _run_prepared, pool.putconn


def psycopg2(conninfo: str, size: int) -> tuple[Callable[[], Any], Act, Act]:
    from psycopg2.pool import ThreadedConnectionPool

    pool = ThreadedConnectionPool(size, size, conninfo)
    connections = [pool.getconn() for _ in range(size)]
    for connection in connections:
        connection.autocommit = True
        pool.putconn(connection)
    return pool.getconn, lambda connection: connection.cursor().execute("SELECT 1"), pool.putconn


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
    acquire, run, release = {"psycopg_pool": psycopg_pool, "psycopg2": psycopg2, "sqlalchemy": sqlalchemy}[kind](
        conninfo, size
    )
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
        connection.prepare(b"bench", b"SELECT 1")
        connection.nonblocking = 1
        connections[connection.socket] = connection
    poll = select.poll()
    for socket in connections:
        poll.register(socket, select.POLLIN)

    def go(seconds: float) -> int:
        end, count = time.monotonic() + seconds, 0
        for connection in connections.values():
            connection.send_query_prepared(b"bench", None)
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
    connection.pgconn.prepare(b"bench", b"SELECT 1")


def _run_prepared(connection: Any) -> None:
    connection.pgconn.exec_prepared(b"bench", None)


def main() -> None:
    kind, conninfo, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    go = no_pool(conninfo, size) if kind == "database/sql" else threads(kind, conninfo, size)
    print("ready", flush=True)
    print(go(float(sys.stdin.readline())), flush=True)


if __name__ == "__main__":
    main()
