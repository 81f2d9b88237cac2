"""A development server that makes a new pool of 5 at every reload of its code and forgets the old one.

All in one process, one pool of them in use. CONNINFO [POOLS].
"""

import random
import sys
import time

from psycopg_pool import ConnectionPool

pools = []
for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 10):
    pool = ConnectionPool(sys.argv[1], min_size=5, max_size=5, open=True)
    pool.wait()
    with pool.connection() as connection:
        connection.execute("SELECT 1")
    pools.append(pool)
    time.sleep(1)
while True:
    with pools[-1].connection() as connection:
        connection.execute("SELECT count(*) FROM pg_class")
    time.sleep(random.expovariate(3))
