"""A client program that brings a cause about on a real server, for the tests of ``poolctl inspect``.

    python incident_client.py BEHAVIOR CONNINFO key=value ...

It prints "ready" once the state is reached, and goes on until it is killed. ``metrics=FILE`` also writes what the
pool says of itself, as client_golang's go_sql_* in Prometheus text, several times a second.
"""

import asyncio
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import sqlalchemy

Options = dict[str, str]

GIVEN_UP = (psycopg.Error, psycopg_pool.PoolTimeout, sqlalchemy.exc.TimeoutError)


class Fifo:
    """psycopg_pool: fifo, opened in the background."""

    def __init__(self, conninfo: str, size: int, least: int, timeout: float) -> None:
        self._pool = psycopg_pool.ConnectionPool(
            conninfo, min_size=least, max_size=size, timeout=timeout, open=True, kwargs={"autocommit": True}
        )
        self._pool.wait(30)

    def acquire(self) -> Any:
        return self._pool.getconn()

    def release(self, connection: Any) -> None:
        self._pool.putconn(connection)

    def figures(self) -> tuple[int, int, int, int, float]:
        stats = self._pool.get_stats()
        size, idle = stats["pool_size"], stats["pool_available"]
        return (
            stats["pool_max"],
            size,
            size - idle,
            stats.get("requests_queued", 0),
            stats.get("requests_wait_ms", 0) / 1000,
        )


class Lifo:
    """SQLAlchemy's QueuePool, most recently released first."""

    def __init__(self, conninfo: str, size: int, least: int, timeout: float) -> None:
        self._pool = sqlalchemy.pool.QueuePool(
            lambda: psycopg.connect(conninfo, autocommit=True),  # type: ignore[arg-type]
            pool_size=size,
            max_overflow=0,
            timeout=timeout,
            use_lifo=True,
            reset_on_return=None,
        )
        self._size = size
        self._lock = threading.Lock()
        self._waits, self._waited = 0, 0.0
        first = [self._pool.connect() for _ in range(least)]
        for each in first:
            each.close()

    def acquire(self) -> Any:
        full = self._pool.checkedout() >= self._size
        began = time.monotonic()
        if full:
            with self._lock:
                self._waits += 1
        fairy = self._pool.connect()
        if full:
            with self._lock:
                self._waited += time.monotonic() - began
        connection = fairy.driver_connection
        connection.fairy = fairy  # type: ignore[union-attr]
        return connection

    def release(self, connection: Any) -> None:
        connection.fairy.close()

    def figures(self) -> tuple[int, int, int, int, float]:
        in_use = self._pool.checkedout()
        return self._size, in_use + self._pool.checkedin(), in_use, self._waits, self._waited


class Client:
    def __init__(self, conninfo: str, options: Options) -> None:
        self.conninfo = conninfo
        self.options = options
        self.kept: list[Any] = []
        """What must not be collected as garbage."""
        self.random = random.Random(int(options.get("seed", "1")))

    def number(self, name: str, default: float) -> float:
        return float(self.options.get(name, default))

    def count(self, name: str, default: int) -> int:
        return int(self.options.get(name, default))

    def connect(self, **changes: Any) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.conninfo, autocommit=True, **changes)

    def pool(self) -> Any:
        kind = {"fifo": Fifo, "lifo": Lifo}[self.options.get("pool", "fifo")]
        size = self.count("size", 10)
        pool = kind(self.conninfo, size, self.count("least", size), self.number("timeout", 30.0))
        if "metrics" in self.options:
            self.start(_export, pool, Path(self.options["metrics"]), self.options.get("name", "shop"))
        return pool

    def start(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()


def dropping(client: Client) -> None:
    """Connections are acquired, used and dropped without a release: psycopg_pool never gets the slot back."""
    pool = client.pool()
    for _ in range(client.count("until", 3)):
        pool.acquire().execute("SELECT 1")
    for _ in range(client.count("waiters", 3)):
        client.start(_worker, client, pool, 0.05, "SELECT 1")
    time.sleep(1.0)


def _export(pool: Any, path: Path, name: str) -> None:
    while True:
        size, opened, in_use, waits, waited = pool.figures()
        values = {
            "max_open_connections": size,
            "open_connections": opened,
            "in_use_connections": in_use,
            "idle_connections": opened - in_use,
            "wait_count_total": waits,
            "wait_duration_seconds_total": waited,
        }
        text = "".join(f'go_sql_{key}{{db_name="{name}"}} {value}\n' for key, value in values.items())
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)
        time.sleep(0.1)


def _request(client: Client, connection: Any, statement: str) -> None:
    """One short transaction."""
    with connection.transaction():
        connection.execute(statement)
        if pause := client.number("inside", 0.0):
            time.sleep(client.random.expovariate(1 / pause))
        connection.execute("SELECT 1")


def _worker(client: Client, pool: Any, think: float, statement: str) -> None:
    while True:
        with suppress(*GIVEN_UP):
            connection = pool.acquire()
            try:
                _request(client, connection, statement)
            finally:
                pool.release(connection)
        if think:
            time.sleep(client.random.expovariate(1 / think))


def busy(client: Client) -> None:
    """``workers`` threads run short transactions through a pool of ``size``; ``statement`` and ``think`` vary it."""
    pool = client.pool()
    statement = client.options.get("statement", "SELECT count(*) FROM pg_class")
    for _ in range(client.count("workers", 4)):
        client.start(_worker, client, pool, client.number("think", 0.02), statement)
    time.sleep(client.number("settle", 0.5))


def leak(client: Client) -> None:
    """Requests of which every ``every``-th keeps its connection for good, in a transaction or (``idle=1``) not.

    ``prepared=1``: its statement goes by the extended protocol, whose portal outlives it.
    """
    pool = client.pool()
    kept: list[Any] = []
    # Not the length of ``kept``: two workers at once would each take the last place.
    places = threading.Semaphore(client.count("most", 1000))

    def serve() -> None:
        number = 0
        while True:
            number += 1
            try:
                connection = pool.acquire()
            except GIVEN_UP:
                time.sleep(0.2)
                continue
            statement = client.options.get("statement", "SELECT count(*) FROM pg_class /*route='%2Fcheckout'*/")
            if number % client.count("every", 4) == 0 and places.acquire(blocking=False):
                if not client.count("idle", 0):
                    connection.execute("BEGIN")
                connection.execute(statement, prepare=bool(client.count("prepared", 0)))
                kept.append(connection)
            else:
                connection.execute("SELECT 1")
                pool.release(connection)
            time.sleep(client.random.expovariate(1 / client.number("think", 0.1)))

    for _ in range(client.count("workers", 2)):
        client.start(serve)
    enough = client.count("until", 5)
    while len(kept) < enough:
        time.sleep(0.02)


def holding(client: Client) -> None:
    """``workers`` threads hold a transaction open over work elsewhere that takes ``call`` seconds."""
    pool = client.pool()
    call = client.number("call", 0.3)

    def serve() -> None:
        while True:
            with suppress(*GIVEN_UP):
                connection = pool.acquire()
                with connection.transaction():
                    connection.execute("SELECT 1 /*route='%2Fpay'*/")
                    time.sleep(call * client.random.uniform(0.7, 1.3))
                pool.release(connection)

    for _ in range(client.count("workers", 12)):
        client.start(serve)
    time.sleep(client.number("settle", 1.0))


def nested(client: Client) -> None:
    """Every one of ``workers`` threads takes a connection, all at once, and then asks for a second one."""
    pool = client.pool()
    barrier = threading.Barrier(client.count("workers", 10))

    def serve() -> None:
        while True:
            outer = pool.acquire()
            outer.execute("BEGIN")
            outer.execute("SELECT 1")
            with suppress(threading.BrokenBarrierError):
                barrier.wait(5)
            with suppress(*GIVEN_UP):
                pool.release(pool.acquire())
            outer.execute("ROLLBACK")
            pool.release(outer)

    for _ in range(client.count("workers", 10)):
        client.start(serve)
    time.sleep(1.0)


def sessions(client: Client) -> None:
    """``size`` sessions that each run ``statement`` once and then do nothing at all."""
    opened = [client.connect() for _ in range(client.count("size", 5))]
    for connection in opened:
        for statement in client.options.get("statement", "SELECT 1").split(";"):
            with suppress(psycopg.Error):
                connection.execute(statement)
    client.kept = opened


def statements(client: Client) -> None:
    """``size`` sessions that are each inside ``statement``, over and over."""

    def run() -> None:
        while True:
            with suppress(psycopg.Error), client.connect() as connection:
                while True:
                    connection.execute(client.options["statement"])
                    if think := client.number("think", 0.0):
                        time.sleep(client.random.expovariate(1 / think))

    for _ in range(client.count("size", 5)):
        client.start(run)
    time.sleep(client.number("settle", 0.7))


def churn(client: Client) -> None:
    """A new connection for every request, closed properly or (``abandon=1``) by dropping the socket."""

    def serve() -> None:
        while True:
            with suppress(psycopg.Error):
                connection = client.connect()
                connection.execute("SELECT 1")
                if client.count("abandon", 0):
                    socket.socket(fileno=os.dup(connection.fileno())).shutdown(socket.SHUT_RDWR)
                connection.close()
            time.sleep(client.random.expovariate(1 / client.number("think", 0.02)))

    for _ in range(client.count("workers", 4)):
        client.start(serve)
    time.sleep(client.number("settle", 2.0))


def unread(client: Client) -> None:
    """``size`` sessions that ask for many rows and read none of them."""
    for _ in range(client.count("size", 3)):
        connection = client.connect()
        connection.pgconn.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")
        client.kept.append(connection)
    time.sleep(1.0)


def half_sent(client: Client) -> None:
    """``size`` sessions that announced a message and never ended it: active, waiting for their client."""
    for _ in range(client.count("size", 2)):
        connection = client.connect()
        statement = b"SELECT count(*) FROM pg_class"
        parse = b"\0" + statement + b"\0" + b"\0\0"
        bind = b"\0\0" + b"\0\0" * 3
        execute = b"\0" + b"\0\0\0\0"
        message = b"".join(
            kind + (len(body) + 4).to_bytes(4, "big") + body
            for kind, body in ((b"P", parse), (b"B", bind), (b"E", execute), (b"H", b""))
        )
        os.write(connection.fileno(), message)
        client.kept.append(connection)
    time.sleep(0.5)


def half_open(client: Client) -> None:
    """``size`` connections that are asked for a password and never answer."""
    values = psycopg.conninfo.conninfo_to_dict(client.conninfo)
    address = (str(values["host"]), int(str(values["port"])))
    body = (196608).to_bytes(4, "big") + b"user\0postgres\0database\0app\0\0"
    for _ in range(client.count("size", 5)):
        client.kept.append(socket.create_connection(address))
        client.kept[-1].sendall((len(body) + 4).to_bytes(4, "big") + body)
    time.sleep(0.5)


def starved(client: Client) -> None:
    """An event loop that computes for ``blocked`` seconds at a time while requests are about to get a connection: those
    that queue time out, though every connection is free whenever the loop comes to write its pool's figures."""
    path, blocked = Path(client.options["metrics"]), client.number("blocked", 0.5)
    begun = threading.Event()

    async def request(pool: Any) -> None:
        with suppress(psycopg_pool.PoolTimeout):
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")

    async def serve() -> None:
        async with psycopg_pool.AsyncConnectionPool(
            client.conninfo,
            name=client.options.get("name", "shop"),
            min_size=client.count("size", 4),
            max_size=client.count("size", 4),
            timeout=client.number("timeout", 0.3),
            kwargs={"autocommit": True},
            open=False,
        ) as pool:
            await pool.wait()
            while True:
                requests = [asyncio.create_task(request(pool)) for _ in range(client.count("requests", 20))]
                await asyncio.sleep(0)
                time.sleep(blocked)
                await asyncio.gather(*requests)
                fresh = path.with_suffix(".new")
                fresh.write_text(json.dumps(pool.get_stats()))
                fresh.replace(path)
                begun.set()
                await asyncio.sleep(client.random.uniform(0.05, 0.3))

    client.start(lambda: asyncio.run(serve()))
    begun.wait()


@contextmanager
def _told_when_ready() -> Any:
    yield
    print("ready", flush=True)  # noqa: T201


BEHAVIORS: dict[str, Callable[[Client], None]] = {
    each.__name__: each
    for each in (
        busy,
        leak,
        holding,
        nested,
        sessions,
        statements,
        churn,
        unread,
        half_sent,
        half_open,
        dropping,
        starved,
    )
}

if __name__ == "__main__":
    name, conninfo, *rest = sys.argv[1:]
    with _told_when_ready():
        BEHAVIORS[name](client := Client(conninfo, dict(item.split("=", 1) for item in rest)))
    while True:
        time.sleep(60)
