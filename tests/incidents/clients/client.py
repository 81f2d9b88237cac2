"""A client of psycopg_pool for the generator of incidents: python client.py BEHAVIOR key=value ...

It prints "ready" once its pool works, and writes what the pool says of itself into the file of ``metrics``.
"""

import json
import math
import random
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
from psycopg.conninfo import make_conninfo

behavior, *words = sys.argv[1:]
options = dict(word.split("=", 1) for word in words)
named = {"application_name": options["application"]} if "application" in options else {}
conninfo = make_conninfo("", **{key: options[key] for key in ("host", "port", "user", "dbname")}, **named)
statement = options.get("statement", "SELECT 1")
kept: list[Any] = []
counted = threading.Lock()
requests = 0
began = time.monotonic()


def number(name: str, otherwise: float) -> float:
    """Return an option as a number."""
    return float(options.get(name, otherwise))


pool = psycopg_pool.ConnectionPool(
    conninfo,
    min_size=int(number("least", number("size", 10))),
    max_size=int(number("size", 10)),
    timeout=number("timeout", 0) or 1e6,
    open=behavior != "per-request",
    # Behind a pooler a prepared statement is of another session.
    kwargs={"autocommit": True, "prepare_threshold": None if "pooled" in options else 5},
)


def request() -> None:
    """Do what the behavior says, once."""
    global requests
    with counted:
        requests += 1
        every = int(number("every", 0))
        keeps = every > 0 and requests % every == 0
    connection = pool.getconn()
    if keeps and behavior in ("idle-leak", "transaction-leak"):
        if behavior == "transaction-leak":
            connection.execute("BEGIN")
        connection.execute(statement.encode())
        kept.append(connection)
        return
    try:
        if behavior in ("hold", "nested"):
            is_plain = options.get("plain") == "1"
            if not is_plain:
                connection.execute("BEGIN")
            connection.execute(statement.encode())
            if behavior == "hold":
                time.sleep(random.uniform(number("hold_from", 1), number("hold_to", 2)))
            else:
                time.sleep(0.05)
                with pool.connection() as second:
                    second.execute(statement.encode())
            if not is_plain:
                connection.execute("COMMIT")
        else:
            connection.execute(statement.encode())
    finally:
        pool.putconn(connection)


def per_request() -> None:
    """Open a connection for one statement; with keep=1 leave it open, as a forgotten pool or thread does."""
    connection = psycopg.connect(conninfo, autocommit=True)
    connection.execute(statement.encode())
    if options.get("keep") == "1":
        kept.append(connection)
    else:
        connection.close()


def work() -> None:
    """Make requests, one after the other; for ever without ``until``, seconds after which the load is over.

    With ``off``: for ``on`` seconds, then none for that many, and so on, all workers at the same times.
    """
    time.sleep(random.random())  # requests of real users do not begin at one instant
    ends_at = time.monotonic() + number("until", math.inf)
    while time.monotonic() < ends_at:
        try:
            per_request() if behavior == "per-request" else request()
        except (psycopg.Error, psycopg_pool.PoolTimeout):
            time.sleep(0.2)
        time.sleep(number("think", 0.05) * random.uniform(0.5, 1.5))
        cycle = number("on", 0) + number("off", 0)
        if cycle and (time.monotonic() - began) % cycle > number("on", 0):
            time.sleep(cycle - (time.monotonic() - began) % cycle)


def report() -> None:
    """Write the pool's own figures."""
    if "metrics" in options:
        file = Path(options["metrics"])
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"name": "main", **pool.get_stats()}))
        fresh.replace(file)


for _ in range(int(number("workers", 4))):
    threading.Thread(target=work, daemon=True).start()
settled = time.monotonic() + number("settle", 1)
is_ready = False
while True:
    with suppress(OSError):
        report()
    time.sleep(0.2)
    if not is_ready and time.monotonic() > settled:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        is_ready = True
