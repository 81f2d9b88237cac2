"""A pool of 10, of which 8 are taken for good by LISTEN, one for each subscriber; five workers share the other two.

CONNINFO STATS_FILE.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path

from psycopg_pool import ConnectionPool

pool = ConnectionPool(sys.argv[1], min_size=10, max_size=10, open=True, kwargs={"autocommit": True})
pool.wait()
kept = [pool.getconn() for _ in range(8)]
for number, connection in enumerate(kept):
    connection.execute(f"LISTEN topic_{number}".encode())


def work() -> None:
    """Do short work, one after the other."""
    while True:
        with pool.connection() as connection:
            connection.execute("SELECT pg_sleep(0.1)")
        time.sleep(random.expovariate(20))


for _ in range(5):
    threading.Thread(target=work, daemon=True).start()
file = Path(sys.argv[2])
while True:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(pool.get_stats()))
    fresh.replace(file)
    time.sleep(0.2)
