"""Tasks that hold one connection of a pool of ten for an advisory lock, and then need a second one for their work.

At ten tasks at once none of them ever gets it. CONNINFO STATS_FILE [LOCK]: "no" for the same without the lock.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path

from psycopg_pool import ConnectionPool

conninfo, stats_file = sys.argv[1], Path(sys.argv[2])
has_lock = sys.argv[3:] != ["no"]
pool = ConnectionPool(conninfo, min_size=10, max_size=10, timeout=10_000, open=True)
pool.wait()


def run_task(number: int) -> None:
    """Take the lock, look at something for 0.3 to 3 s, and work in a second connection; again and again."""
    time.sleep(0.6 * number)
    while True:
        with pool.connection() as lock:
            lock.execute(f"SELECT pg_advisory_xact_lock({number})" if has_lock else f"SELECT {number}")
            time.sleep(random.uniform(0.3, 3))
            with pool.connection() as work:
                work.execute("SELECT pg_sleep(0.03)")
        time.sleep(random.expovariate(2))


for number in range(16):
    threading.Thread(target=run_task, args=(number,), daemon=True).start()
while True:
    fresh = stats_file.with_suffix(".new")
    fresh.write_text(json.dumps(pool.get_stats()))
    fresh.replace(stats_file)
    time.sleep(0.2)
