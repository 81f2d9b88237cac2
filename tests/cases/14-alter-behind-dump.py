"""A nightly dump reads a table, a migration waits for it, and seven readers wait behind the migration. CONNINFO."""

import sys
import threading
import time
from typing import Any

import psycopg

conninfo = sys.argv[1]


def connect(name: str) -> "psycopg.Connection[Any]":
    """Log in under that application_name."""
    return psycopg.connect(conninfo, autocommit=True, application_name=name)


with connect("setup") as setup:
    setup.execute("CREATE TABLE IF NOT EXISTS profiles AS SELECT i AS id, 'x' AS skills FROM generate_series(1, 999) i")


def dump() -> None:
    """Read the table in a transaction that goes on with other tables."""
    connection = connect("pg_dump")
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute("LOCK TABLE profiles IN ACCESS SHARE MODE")
    connection.execute("SELECT pg_sleep(600)")  # stands for COPY of the other tables


def migrate() -> None:
    """Change the table, a second later."""
    time.sleep(1)
    connect("migrate").execute("ALTER TABLE profiles ADD CONSTRAINT cap CHECK (length(skills) < 200)")


def read() -> None:
    """Read one row, two seconds later, which waits behind the change."""
    time.sleep(2)
    connect("api").execute("SELECT * FROM profiles WHERE id = 7")


for each in (dump, migrate, *[read] * 7):
    threading.Thread(target=each, daemon=True).start()
time.sleep(600)
