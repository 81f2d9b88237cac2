"""Connections that one request opens, uses within its first 150 ms and never closes.

Django's persistent connections under an ASGI server, a fresh thread for each request. CONNINFO [MOST] [RATE].
"""

import random
import sys
import threading
import time

import psycopg

conninfo = sys.argv[1]
most, rate = (float(word) for word in sys.argv[2:4] or ("40", "1"))
kept: list["psycopg.Connection[object]"] = []


def serve() -> None:
    """Serve one request with a connection of its own, which stays open."""
    connection = psycopg.connect(conninfo, autocommit=True)
    for _ in range(random.randint(1, 3)):
        connection.execute("SELECT count(*) FROM pg_class WHERE relkind = 'r'")
        time.sleep(0.03)
    kept.append(connection)


while True:
    threading.Thread(target=serve, daemon=True).start()
    if len(kept) > most:
        # The garbage collector comes by.
        for _ in range(random.randint(1, 4)):
            kept.pop(random.randrange(len(kept))).close()
    time.sleep(1 / rate if len(kept) >= most - 5 else 0.1)
