"""The program of the first story: each request takes a connection, and none puts it back.

    python examples/threaded_pool_leak.py "host=127.0.0.1 port=5432 dbname=app user=app"

To try it, `poolctl simulate --keep` leaves a throw-away server running.
"""

import sys

from psycopg2 import OperationalError
from psycopg2.pool import PoolError, ThreadedConnectionPool

if len(sys.argv) != 2:
    sys.exit(__doc__)
pool = ThreadedConnectionPool(10, 100, sys.argv[1])
served = 0

for request in range(1, 1001):
    try:
        connection = pool.getconn()
    except (PoolError, OperationalError) as error:
        print(f"request {request}: {type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        break
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    served += 1
    # pool.putconn(connection) is missing here

print(f"{served} of 1000 requests served")
