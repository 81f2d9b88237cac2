"""A real PostgreSQL that reports thousands of backends: a relay in front of it asks a view in place of the server's
own list, so that poolctl's queries, its driver and its protocol are the real ones.

Five thousand real backends would take 6 GB of memory.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

REAL, CROWD = b"pg_stat_get_activity(NULL)", b"crowd.activity"

VIEW = """
CREATE SCHEMA crowd;
CREATE VIEW crowd.activity AS
SELECT datid, pid, usesysid, application_name, state, query, wait_event_type, wait_event, xact_start, query_start,
       backend_start, state_change, client_addr, client_port, backend_xid, backend_xmin, backend_type, query_id
FROM pg_stat_get_activity(NULL) a
UNION ALL
SELECT d.oid, 100000 + n, r.oid, 'service ' || n % 40,
       CASE WHEN busy THEN 'active' ELSE 'idle' END, 'SELECT * FROM orders WHERE customer = ' || n,
       CASE WHEN busy THEN NULL ELSE 'Client' END, CASE WHEN busy THEN NULL ELSE 'ClientRead' END,
       CASE WHEN busy THEN clock_timestamp() - interval '20 ms' END, changed, '2026-01-01'::timestamptz, changed,
       ('10.0.' || n % 40 || '.' || n % 7)::inet, 20000 + n % 40000, NULL, NULL, 'client backend', NULL
FROM pg_database d, pg_roles r, generate_series(1, {count}) AS n,
     -- Each backend works for a second in every {every}, each in a second of its own.
     LATERAL (SELECT floor(extract(epoch FROM clock_timestamp()))::bigint - n % {every} AS shifted) AS clock,
     LATERAL (SELECT shifted % {every} = 0 AS busy,
                     to_timestamp(shifted - shifted % {every} + n % {every} + n % 10 * 0.05) AS changed) AS work
WHERE d.datname = current_database() AND r.rolname = 'app';
GRANT USAGE ON SCHEMA crowd TO PUBLIC;
GRANT SELECT ON crowd.activity TO PUBLIC;
"""


@contextmanager
def crowded(conninfo: str, count: int, *, every: int = 20) -> Iterator[str]:
    """Yield a connection string through which the server of ``conninfo`` (an administrator's) reports ``count``
    backends more, of which one in ``every`` works at a time."""
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS crowd CASCADE")
        admin.execute(VIEW.format(count=count, every=every).encode())
    given = conninfo_to_dict(conninfo)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, str(given["host"]), int(str(given["port"]))), daemon=True).start()
    try:
        port = listener.getsockname()[1]
        yield make_conninfo(conninfo, host="127.0.0.1", hostaddr="127.0.0.1", port=port, sslmode="disable")
    finally:
        listener.close()


def _accept(listener: socket.socket, host: str, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, host, port), daemon=True).start()


def _relay(client: socket.socket, host: str, port: int) -> None:
    with client, _connect(host, port) as server, suppress(OSError, struct.error):
        threading.Thread(target=_copy, args=(server, client), daemon=True).start()
        (length,) = struct.unpack("!I", start := _read(client, 4))
        server.sendall(start + _read(client, length - 4))
        while True:
            kind, (length,) = _read(client, 1), struct.unpack("!I", _read(client, 4))
            body = _read(client, length - 4).replace(REAL, CROWD)
            server.sendall(kind + struct.pack("!I", len(body) + 4) + body)


def _connect(host: str, port: int) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


def _copy(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while data := server.recv(1 << 16):
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)


def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise OSError
        data += more
    return data
