"""A chat service whose requests keep their transaction while the answer of a language model is streamed.

Pool of 11, 14 users. CONNINFO STATS_FILE [SHORTEST] [LONGEST]: seconds of an answer, 20 to 90.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path

from psycopg_pool import ConnectionPool

conninfo, stats_file = sys.argv[1], Path(sys.argv[2])
shortest, longest = map(float, sys.argv[3:5] or (20, 90))
pool = ConnectionPool(conninfo, min_size=11, max_size=11, timeout=300, open=True)
pool.wait()


def chat() -> None:
    """Serve one user's requests, one after the other."""
    time.sleep(random.random() * shortest)
    while True:
        with pool.connection() as connection:
            connection.execute("SELECT count(*) FROM pg_class")
            time.sleep(random.uniform(shortest, longest))
            connection.execute("SELECT 1")
        time.sleep(random.random() * 2)


for _ in range(14):
    threading.Thread(target=chat, daemon=True).start()
while True:
    fresh = stats_file.with_suffix(".new")
    fresh.write_text(json.dumps(pool.get_stats()))
    fresh.replace(stats_file)
    time.sleep(0.2)
