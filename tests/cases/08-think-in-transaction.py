"""76 clients of a pooler in transaction mode; each transaction reads, thinks 40 ms in the application, and writes.

CONNINFO [CLIENTS].
"""

import random
import sys
import threading
import time

import psycopg


def work() -> None:
    """Run transactions with a pause in each, one after the other."""
    connection = psycopg.connect(sys.argv[1], prepare_threshold=None)
    while True:
        connection.execute("SELECT count(*) FROM pg_class")
        time.sleep(random.expovariate(1 / 0.04))
        connection.execute("SELECT 1")
        connection.commit()
        time.sleep(random.expovariate(1 / 0.2))


for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 76):
    threading.Thread(target=work).start()
