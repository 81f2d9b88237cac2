"""An application that serves the figures of its pool over HTTP, as a Spring Boot service does of HikariCP and JDBC.

    python serving_client.py BEHAVIOR CONNINFO SIZE [LABEL]

It prints its port once the state is reached, and goes on until it is killed. ``healthy`` works all the time, ``leak``
has acquired every connection and forgot it, ``reload`` makes three pools more that it uses once and never closes.
LABEL is the value of the label ``application``, which is the exporter's and not the connections' application_name.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg_pool

behavior, conninfo, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
label = f'application="{sys.argv[4]}",' if len(sys.argv) > 4 else ""
pool = psycopg_pool.ConnectionPool(conninfo, min_size=size, max_size=size, timeout=3600, kwargs={"autocommit": True})
pool.wait(30)
kept: list[Any] = []


def work(of: "psycopg_pool.ConnectionPool[Any]", pause: float) -> None:
    while True:
        with of.connection() as connection:
            connection.execute("SELECT count(*) FROM pg_class")
        time.sleep(pause)


def forget() -> None:
    connection = pool.getconn()
    connection.execute("SELECT 1")
    kept.append(connection)


class Figures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        stats = pool.get_stats()
        opened, idle = stats["pool_size"], stats["pool_available"]
        values = {"active": opened - idle, "idle": idle, "max": size}
        lines = [f'hikaricp_connections_{name}{{{label}pool="HikariPool-1"}} {n}' for name, n in values.items()]
        lines += [f'jdbc_connections_{name}{{{label}name="dataSource"}} {n}' for name, n in values.items()]
        lines.append(f'hikaricp_connections_pending{{{label}pool="HikariPool-1"}} {stats["requests_waiting"]}')
        body = "\n".join([*lines, ""]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if behavior == "leak":
    for _ in range(size):
        forget()
    for _ in range(3):
        threading.Thread(target=pool.getconn, daemon=True).start()
else:
    for _ in range(size // 2):
        threading.Thread(target=work, args=(pool, 0.01), daemon=True).start()
if behavior == "reload":
    for _ in range(3):
        again = psycopg_pool.ConnectionPool(conninfo, min_size=size, max_size=size, kwargs={"autocommit": True})
        again.wait(30)
        kept.append(again)
        time.sleep(0.6)
server = ThreadingHTTPServer(("127.0.0.1", 0), Figures)
time.sleep(1.5)
sys.stdout.write(f"{server.server_address[1]}\n")
sys.stdout.flush()
server.serve_forever()
