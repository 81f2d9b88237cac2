"""A daemon without a pool that opens a connection to the pooler for every statement, some 150 a second, from 6 threads.

The pooler and the server have nearly nothing to do. CONNINFO [SECONDS]."""

import sys
import threading
import time

import psycopg

end = time.time() + (float(sys.argv[2]) if len(sys.argv) > 2 else 30)


def run() -> None:
    while time.time() < end:
        with psycopg.connect(sys.argv[1], autocommit=True) as c:
            c.execute("SELECT 1")
        time.sleep(0.02)


threads = [threading.Thread(target=run) for _ in range(6)]
for t in threads:
    t.start()
for t in threads:
    t.join()
