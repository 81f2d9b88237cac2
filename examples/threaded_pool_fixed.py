"""The fix of examples/threaded_pool_leak.py: each connection goes back to the pool, also after an error.

python examples/threaded_pool_fixed.py "host=127.0.0.1 port=5432 dbname=app user=app"
"""

import sys

from psycopg2.pool import ThreadedConnectionPool

if len(sys.argv) != 2:
    sys.exit(__doc__)
pool = ThreadedConnectionPool(10, 100, sys.argv[1])
served = 0

for _ in range(1000):
    connection = pool.getconn()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        served += 1
    finally:
        pool.putconn(connection)

pool.closeall()
print(f"{served} of 1000 requests served")
