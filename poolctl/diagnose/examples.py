"""Example screens of every finding, as poolctl prints them.

Made by tests/finding_examples.py, which says how each was staged. Do not edit: run it again.
"""

from collections.abc import Mapping

EXAMPLES: Mapping[str, str] = {
    "healthy": """\
OK  Healthy: 12 of 97 usable connections open, 6 at work, no client is known to wait
healthy (database, certain)
Do      Nothing. If users see errors all the same, observe at the time of the errors, with the
        figures of the applications' own pools (--pool-stats).
Why     used 12, usable 97, at work 6, waiting 0, samples 7, window 3 s
""",
    "slots-exhausted": """\
CRITICAL  The server has no slot left for a client: 97 of 97 usable slots taken; an ordinary
role finds no slot
slots-exhausted (database, certain); the remedy frees no slot
Who     application shop, user app, client 127.0.0.1, 97 backends (100, 101, 102, 103, 104, 105,
        106, 107 ...)
          last query: SELECT ?
Do      Treat the cause that is reported beside this finding, or end what the largest
        application does not use. A superuser or a member of pg_use_reserved_connections can
        still connect while reserved slots last. Raising max_connections needs a restart, costs
        memory for each slot and only moves the limit.
Why     used 97, usable 97, max connections 100
""",
    "slots-low": """\
WARNING  max_connections: 72 of 97 used, 25 slots left; at this rate it is reached in 6.25 s,
mostly shop (+12)
slots-low (database, certain); the remedy frees no slot
Who     application shop, user app, client 127.0.0.1, 72 backends (500, 501, 502, 503, 504, 505,
        506, 507 ...)
          last query: SELECT ?
Do      Find out what grows before the limit is reached, and add up what every instance may open
        (fleet-over-budget). A large idle fleet below its limit needs nothing.
Why     limit max_connections, used 72, of 97, free 25, exhausted in 6.25, grown in window 12,
        window 3 s
""",
    "role-limit": """\
WARNING  CONNECTION LIMIT of role app: 6 of 6 used; the server has slots
role-limit (database, certain); the remedy frees no slot
Who     application shop, user app, client 127.0.0.1, 6 backends (500, 501, 502, 503, 504, 505)
          last query: SELECT ?
Do      Make that role's pools (instances x max_open) fit under the limit, or raise it: ALTER
        ROLE or ALTER DATABASE ... CONNECTION LIMIT. Superusers are exempt: test with the
        application's role.
Why     limit CONNECTION LIMIT of role app, used 6, of 6, server slots free 91
""",
    "fleet-over-budget": """\
WARNING  6 pools with max_open 30 may open 180 connections, the server has 97 to give; quiet so
far; now shop: 24 backends of 1 address
fleet-over-budget (application, certain); the remedy frees 83 slots
Who     application shop, user app, client 127.0.0.1, 24 backends (500, 501, 502, 503, 504, 505,
        506, 507 ...)
          last query: SELECT ?
Do      Bound each instance at 15 connections, (97 - 3) / 6, with room for the instances that a
        deploy adds; if that is too little, put PgBouncer in transaction mode in front.
Why     ceiling 180, usable 97, instances 6, used 24, headroom 3, max open that fits 15
""",
    "handshake-pile-up": """\
WARNING  5 connections hold slots without having logged in
handshake-pile-up (database, certain); the remedy frees 5 slots
Who     no application_name, client 127.0.0.1, 5 backends (300, 301, 302, 303, 304)
          last query: SELECT ?
Do      Use a pool instead of a connection for every request. Check health probes that only open
        the port, and what makes logging in slow. authentication_timeout ends each of these
        connections.
Why     starting 5, oldest age 5 s, missing 0
""",
    "leak": """\
WARNING  13 of 13 connections in use by checkout (max_open 20) do nothing and do not come back,
the oldest for 79 s (likely)
leak (application, likely); the remedy frees 13 slots
Who     application checkout, user app, client 127.0.0.1, route /checkout, 13 backends (101,
        102, 103, 104, 105, 106, 107, 108 ...)
          last query: SELECT * FROM cart WHERE id = $1 /*route='/checkout'*/
Do      Release the connection on every path of that code: finally, with, defer. Keep the pool
        bounded (max_open), so that a leak stops one instance and not the server. A bigger pool
        only delays the end.
Why     suspected 13, in use 13, max_open 20, floor steps 7, oldest age 79 s, median age 61 s,
        frozen share 50 %, opened meanwhile 0, waiting 0, longest seen to end 3 ms
""",
    "leak-in-transaction": """\
WARNING  12 of 12 backends of checkout are idle in transactions that are not ended, the oldest
for 3.1 min (likely)
leak-in-transaction (application, likely); the remedy frees 12 slots
Who     application checkout, user app, client 127.0.0.1, route /checkout, 12 backends (100,
        101, 102, 103, 104, 105, 106, 107 ...)
          last query: SELECT * FROM cart WHERE id = $1 /*route='/checkout'*/
Do      Commit or roll back and release on every path of that code: finally, with, defer. Until
        that is deployed, end these backends, and set idle_in_transaction_session_timeout for
        the application's role. A bigger pool only delays the end.
Why     stuck 12, sessions 12, oldest age 3.1 min, youngest age 65 s, age spread 121 s, moved
        meanwhile 0, hold back vacuum 0
""",
    "leak-or-long-hold": """\
CRITICAL  10 connections of checkout stand still (10 of 10 in use) while 7 clients wait, the
oldest for 26 s: leaked, or a long job that will come back (undetermined)
leak-or-long-hold (application, undetermined); the remedy frees 10 slots
Who     application checkout, user app, client 127.0.0.1, route /checkout, 10 backends (100,
        101, 102, 103, 104, 105, 106, 107 ...)
          last query: SELECT * FROM cart WHERE id = $1 /*route='/checkout'*/
Do      1. To decide: watch for longer than the longest hold that is legitimate (--for): one
           that comes back is a long hold, a number in use that only climbs is a leak; or ask
           the process where its connections are, and its host whether it is stopped
        2. End nothing yet: if they are leaked, release on every path (finally, with, defer); if
           they are long jobs, give those a pool of their own. A bigger pool helps neither.
Why     standing still 10, sessions 10, oldest age 26 s, youngest age 8 s, moved meanwhile 0,
        waiting 7, waiting told by pool figures, median use 0 s
""",
    "long-hold": """\
CRITICAL  8 connections of shop are held, the longest for 469 ms, and none was acquired or
released meanwhile; 5 clients waiting (likely)
long-hold (application, likely); the remedy frees 8 slots
Who     application shop, user app, client 127.0.0.1, 8 backends (100, 101, 102, 103, 104, 105,
        106, 107)
          last query: SELECT ?
Do      Release before the slow part, or give long jobs a small pool of their own and count it
        as taken for good. A bigger shared pool is filled by the same jobs.
Why     held 8, sessions 8, longest hold 469 ms, median use 243 ms, releases seen 0, waiting 5
""",
    "held-across-io": """\
CRITICAL  shop holds transactions open while it does something else: 100 % of the use is idle in
transaction, typically for 390 ms, and they do end, 6 clients waiting
held-across-io (application, certain); the remedy frees 10 slots
Who     application shop, user app, client 127.0.0.1, 10 backends (100, 101, 102, 103, 104, 105,
        106, 107 ...)
          last query: SELECT ?
Do      Move the other work out of the transaction, or release the connection before it. A
        bigger pool only moves the limit.
Why     sessions 10, idle in transaction share 100 %, typical pause 390 ms, longest seen to end
        392 ms, ended meanwhile 10, stuck 0, samples without a spare session 100 %, waiting 6
""",
    "self-deadlock": """\
CRITICAL  All 8 backends of shop came to rest in the same 28 ms and none is active: each holder
waits for a second connection (likely)
self-deadlock (application, likely); the remedy frees 8 slots
Who     application shop, user app, client 127.0.0.1, 8 backends (100, 101, 102, 103, 104, 105,
        106, 107)
          last query: SELECT ?
Do      Pass the connection down instead of acquiring a second one while one is held. Until then
        a pool of threads x (connections each - 1) + 1 is the smallest that cannot deadlock with
        itself; below that more connections do not help.
Why     holding 8, active 0, age 2.03 s, age spread 28 ms, waiting 8, batches 1, share of
        samples 100 %
""",
    "aborted-transaction": """\
WARNING  3 backends of importer are in a failed transaction that was not rolled back, for up to
10 s
aborted-transaction (application, certain); the remedy frees 3 slots
Who     application importer, user app, client 127.0.0.1, 3 backends (100, 101, 102)
          last query: SELECT ?
Do      Roll back and release where the error is caught (except, finally, with, defer): the
        error path forgets it. Meanwhile idle_in_transaction_session_timeout ends these
        backends.
Why     aborted 3, sessions 3, oldest age 10 s
""",
    "slow-reader": """\
WARNING  3 statements of export wait for a client that does not read the rows, for up to 30 s
slow-reader (application, certain); the remedy frees 3 slots
Who     application export, user app, client 127.0.0.1, 3 backends (100, 101, 102)
          last query: SELECT ?
Do      Read the result to its end or close it on every path (rows.Close, with cursor). Fetch
        first and release, then send. For large results use a server-side cursor on a pool of
        its own.
Why     unread 3, sessions 3, oldest statement 30 s
""",
    "stuck-protocol": """\
WARNING  2 backends of gateway are active and wait for a message that its client began and never
ended, for up to 3.33 min
stuck-protocol (application, certain); the remedy frees 2 slots
Who     application gateway, user app, client 127.0.0.1, 2 backends (100, 101)
          last query: SELECT ?
Do      End these backends: no timeout of the server reaches them. Fix how that client cancels a
        statement in the middle of a pipeline.
Why     stuck 2, oldest statement 3.33 min
""",
    "pool-slots-lost": """\
CRITICAL  The pool of shop counts 4 connections in use, the server has 1 backend of shop: 3
slots lost, 5 clients waiting
pool-slots-lost (application, certain); the remedy frees 3 slots
Do      Never drop a connection: give it back on every path (putconn in finally, or with), also
        a broken one. Restart this process to get the slots back. Raising the pool's limit only
        delays the end.
Why     in use 4, sessions 1, lost 3, max_open 4, waiting 5, pools 1, samples 7
""",
    "backends-beyond-pool": """\
WARNING  Process 4242 of shop has 25 backends, and its pool (shop) may open 10: 15 backends
outside of any pool that has figures, and as many did nothing (likely)
backends-beyond-pool (application, likely); the remedy frees 15 slots
Who     application shop, user app, client 127.0.0.1, process 4242 (python shop.py), route
        /checkout, 15 backends (200, 201, 202, 203, 204, 205, 206, 207 ...)
          last query: SELECT * FROM cart WHERE id = $1 /*route='/checkout'*/
Do      1. Make one pool for each process, when it starts, and close it before another is made
           (reload, tests, changed settings). Let all code take its connections from it.
        2. To decide: where its code opens connections or makes pools: in the process itself
Why     sessions 25, max_open 10, beyond 15, resting 15, pools 1, oldest age 14.3 min
""",
    "frozen-clients": """\
WARNING  The process of worker (pid 77) is stopped and keeps 6 backends, 1 of them in a
statement or transaction
frozen-clients (host, certain); the remedy frees 6 slots
Who     application worker, user app, client 127.0.0.1, process 77 (python worker.py, stopped),
        6 backends (100, 101, 102, 103, 104, 105)
          last query: SELECT ?
Do      Let the process go on (kill -CONT) or end it: then the kernel closes its connections.
        client_connection_check_interval and keepalives do not notice a stopped process; its
        machine must. End no backend by its state alone: a parked connection of a healthy pool
        looks the same.
Why     backends 6, in use 1, process 77, status stopped, oldest age 9 s
""",
    "orphaned-backends": """\
WARNING  3 backends of batch still work for a client that is gone, for up to 90 s
orphaned-backends (host, certain); the remedy frees 3 slots
Who     application batch, user app, client 127.0.0.1, 3 backends (100, 101, 102)
          last query: SELECT ?
Do      End them. Set client_connection_check_interval = 10s (PostgreSQL 14+), so that the
        server notices, and tcp_keepalives_idle = 60 for clients that vanish without closing.
Why     orphans 3, oldest statement 90 s
""",
    "client-starved": """\
CRITICAL  30 acquires of shop timed out with 10 connections free: the client itself has no time,
or its pool is stuck, its event loop lags 800 ms
client-starved (host, certain); the remedy frees no slot
Who     application shop, user app, client 127.0.0.1, 10 backends (100, 101, 102, 103, 104, 105,
        106, 107 ...)
          last query: SELECT ?
Do      Look at that process's processor time and limit, at what blocks its event loop or holds
        its interpreter, and at whether the server can be reached. The pool's size is not the
        cause.
Why     timed out 30, waiting 0, idle 10, in use 0, max_open 10, pools 1, loop lag 800 ms
""",
    "waiting-unexplained": """\
CRITICAL  6 clients wait (pool figures), and nothing observed says for what; the server has 4
backends, 2 at work (undetermined)
waiting-unexplained (application, undetermined); the remedy frees no slot
Do      1. To decide: a longer observation (--for 6s) of all of them together: the server, its
           poolers and the pools' own figures; and what the process that waits is doing (its
           processor time, its threads or event loop)
        2. Change nothing yet. Look at the process that waits: its processor time, its event
           loop or threads, and whether it can open connections at all.
Why     waiting 6, reported by pool figures, pools 1, in use 4, backends 4
""",
    "evidence-unread": """\
WARNING  Pool figures "shop.prom" could not be read: no figures of a pool among its metrics
evidence-unread (application, certain); the remedy frees no slot
""",
    "lock-queue": """\
CRITICAL  4 backends wait for a lock behind migrator (pid 50), idle in transaction for 6 s, last
"ALTER TABLE stock ADD note text", the longest for 3 s
lock-queue (database, certain); the remedy frees 5 slots
Who     application migrator, user app, client 127.0.0.1, 1 backend (50)
          last query: ALTER TABLE stock ADD note text
Do      End the root, pid 50: its application left a transaction open. Commit or roll back on
        every path there; lock_timeout for migrations. A bigger pool only lengthens the queue.
Why     waiting for locks 4, root pid 50, root state idle in transaction, longest wait 3 s
""",
    "slow-database": """\
WARNING  12 statements at work at once on 2 cores, typically 190 ms old; 100 % of it is "SELECT
sum(amount) FROM orders WHERE customer_id = $1", which reads all 400,000 rows of orders each
time, without an index on customer_id
slow-database (database, certain); the remedy frees no slot
Who     application shop, user app, client 127.0.0.1, 12 backends (100, 101, 102, 103, 104, 105,
        106, 107 ...)
          last query: SELECT sum(amount) FROM orders WHERE customer_id = $1
Do      Pool size is not the problem: more connections would share the same processors and
        disks. Make "SELECT sum(amount) FROM orders WHERE customer_id = $1" read less, such as
        with CREATE INDEX CONCURRENTLY ON orders (customer_id);
Why     at work 12, cores 2, server cpu 1.9, typical age 190 ms, statement "SELECT sum(amount)
        FROM orders WHERE customer_id = $1", statement share 100 %, share from
        pg_stat_statements, statement time 500 ms, table orders, column customer_id, ...
""",
    "connection-churn": """\
WARNING  300 sessions opened in 3 s for 300 transactions: 100 a second, most of them gone again
(likely)
connection-churn (application, likely); the remedy frees no slot
Do      Keep connections: one pool for each process with max_idle = max_open, created once and
        closed at exit; where processes are short-lived, PgBouncer in front. PHP-FPM:
        PDO::ATTR_PERSISTENT. psycopg2's pool keeps only minconn connections. A pooler does not
        help clients that connect to it for each statement: they need a pool of their own.
Why     opened 300, opened per second 100, transactions 300, abandoned 0, grown 0, window 3 s
""",
    "connection-per-request": """\
WARNING  12 of 12 backends of shop were used in their first second only and then left open; they
were opened one by one, over 44 s, beside others that already rested; if none is closed, the
server is full in 5.67 min (likely)
connection-per-request (application, likely); the remedy frees 11 slots
Who     application shop, user app, client 127.0.0.1, 12 backends (100, 101, 102, 103, 104, 105,
        106, 107 ...)
          last query: SELECT ?
Do      1. Create one pool for each process, when it starts, and close it when the process ends.
           Django with threads (ASGI): CONN_MAX_AGE = 0, or its pool. Frameworks that reload or
           test: close the pool in the hook for shutdown. Until that is deployed,
           idle_session_timeout (PostgreSQL 14+) closes what is left.
        2. To decide: the client's code: where it opens a connection or creates a pool; or its
           processes, from their host
Why     used once 12, sessions 12, moments 12, opened beside resting 11, first opened 50.2,
        pause between openings 4 s, clients 1
""",
    "reconnect-storm": """\
WARNING  The server started 10 s ago and 59 backends started within 2 s; 6 were caught logging
in (likely)
reconnect-storm (application, likely); the remedy frees no slot
Do      Back off with jitter before trying again, and bound parallel openings; a pooler in front
        keeps the rush from the server. Find what restarted it: the size of the pools did not.
Why     uptime 10, rush 59, logging in 6, refused no, seen away no
""",
    "pool-undersized": """\
CRITICAL  All 6 connections of shop are in use and come back quickly, and still 9 clients wait,
the server uses 1.9 of 16 cores
pool-undersized (application, certain); the remedy frees no slot
Who     application shop, user app, client 127.0.0.1, 6 backends (100, 101, 102, 103, 104, 105)
          last query: SELECT ?
Do      Size the pool from the measured concurrency (poolctl recommend), within the server's
        free slots.
Why     max_open 6, in use 6, waiting 9, pools 1, samples full 7, samples 7, moved 6, sessions
        6, typical use 1.2 ms, cores 16, ...
""",
    "oversized-pool": """\
INFO  38 of 40 backends of shop did nothing in 3 s, at most 1 were in use at once
oversized-pool (application, likely)
Who     application shop, user app, client 127.0.0.1, 38 backends (100, 101, 102, 103, 104, 105,
        106, 107 ...)
          last query: SELECT ?
Do      Nothing, while the fleet is far from its budget. Otherwise lower max_open to what the
        peak needs (poolctl recommend). End nothing: these are parked connections.
Why     sessions 40, frozen idle 38, most in use 1, usable 97, waiting 0, window 3 s
""",
    "pooler-pinned-transaction": """\
CRITICAL  PgBouncer: 5 server connections are pinned by transactions that have not ended, the
oldest idle for 82 s; 5 of 5 server connections of app@app in use, 4 clients waiting for up to
2.5 s
pooler-pinned-transaction (pooler, certain); the remedy frees 5 slots
Who     the same as above
Do      End the transaction on every path of that application: commit, roll back, close. As a
        net, set PgBouncer's idle_transaction_timeout; from 1.24 on KILL_CLIENT ends one client.
        A bigger pool_size is pinned by the same code.
Why     servers active 5, servers idle 0, pool size 5, pool mode transaction, clients active 5,
        clients waiting 4, max wait 2.5 s, idle in transaction 5, idle 0, waiting for locks 0,
        ...
""",
    "pooler-session-mode": """\
CRITICAL  PgBouncer (session mode): 5 server connections belong to clients that do nothing; 5 of
5 server connections of app@app in use, 4 clients waiting for up to 2.5 s
pooler-session-mode (pooler, certain); the remedy frees 5 slots
Who     application web0, user app, client 10.0.0.7, 3 backends (100, 102, 104)
          last query: SELECT ?
        application web1, user app, client 10.0.0.7, 2 backends (101, 103)
          last query: SELECT ?
Do      Use pool_mode = transaction if the application keeps no session state (LISTEN, temporary
        tables, advisory locks); otherwise keep the applications' pools together no larger than
        pool_size, and set client_idle_timeout.
Why     servers active 5, servers idle 0, pool size 5, pool mode session, clients active 5,
        clients waiting 4, max wait 2.5 s, idle in transaction 0, idle 5, waiting for locks 0,
        ...
""",
    "pooler-client-limit": """\
CRITICAL  PgBouncer has 8 of 8 clients (max_client_conn) and refuses more; the database is not
the limit
pooler-client-limit (pooler, certain); the remedy frees no slot
Who     application web0, user app, client 10.0.0.7
Do      Raise max_client_conn, with the limit of open files (nofile) above it, or close clients
        that are not needed.
Why     clients 8, max client conn 8, refusal no more connections allowed (max_client_conn)
""",
    "no-safety-net": """\
INFO  Nothing keeps a mistake small here: applications log in as superuser (app), no slot is
kept back for operators
no-safety-net (database, certain)
Who     application shop, user app, client 127.0.0.1, 4 backends (500, 501, 502, 503)
          last query: SELECT ?
Do      Give applications ordinary roles with lock_timeout and statement_timeout of their own,
        and keep reserved_connections (16+) for operators. No blanket
        idle_in_transaction_session_timeout: it also ends sessions that hold advisory locks in a
        transaction, and hides the bug.
Why     slots kept back 0
""",
    "partial-view": """\
INFO  The state of 8 of 8 backends is hidden from this role and was inferred
partial-view (database, certain)
Do      GRANT pg_monitor (or pg_read_all_stats) TO the role that poolctl uses; it takes no slot
        and changes nothing else.
Why     hidden 8, seen 8, missing 0, role watcher
""",
    "endless-load": """\
CRITICAL  The load cannot end: 269,999 requests followed each other at 5 ms without any time
passing; cut off at 0.005 s: the load cannot end: requests follow each other without any time
passing (no hold, no think, no patience)
Why   endless-load (application, certain): offered 269,999, acquired 269,999, hold mean 0 s,
      think mean 0, error pause 50 ms
Next  Give the load a hold or a think above 0, and an error_pause where acquires fail at once;
      or give arrivals by rate.
""",
    "endless-queue": """\
CRITICAL  The queue grows for ever: 100,068 requests a second come, 4 are served, and none of
250,155 gives up; cut off at 2.500 s: 250,155 requests wait and none gives up: more arrive than
the pools can serve, and without acquire_timeout the queue grows for ever
Why   endless-queue (application, certain): offered rate 100,068, throughput 4, unfinished
      250,155, wait time max 2.5 s
Next  1. Set acquire_timeout (context.WithTimeout), so that requests give up before the queue is
         older than its answers are worth, and treat what makes them wait.
""",
    "hidden-by-pooler": """\
Refused: a pooler is in between: the server sees its connections, not what the application needs
hidden-by-pooler (pooler, certain)
Do      Measure at the pooler (--pgbouncer, --pgpool) or in the application (--pool-stats), or
        give --arrival-rate and --hold-time.
""",
    "stats-reset": """\
Refused: the server's statistics were reset during the observation, so their differences are
meaningless
stats-reset (database, certain)
Do      Measure again without a reset.
""",
    "estimates-disagree": """\
Refused: estimates of the parallelism are more than 25 % apart: sampled 12.0, counted 0.3
estimates-disagree (application, certain)
Do      Check whether transactions outlast the observation, a pooler hides clients, or others
        use this name.
Why     sampled 12, counted 0.34
""",
    "demand-censored": """\
WARNING  A pool had every connection in use in 100 % of the samples: more are needed than
observed, and how many is not known: the size is a lower limit
demand-censored (application, certain)
Do      Measure again with max_open 24, or give the clients that wait, or their wait times, as
        the pools report (--pool-stats)
Why     censored share 100 %, current max open 12
""",
    "few-samples": """\
WARNING  1 independent samples do not bound the 95th or 99th percentile (299 do)
few-samples (application, certain)
Do      Observe for longer (--for).
Why     effective samples 1, needed 299
""",
    "hold-unseen": """\
INFO  Only the server was observed: how long clients hold connections that look idle to it is
not known: between 12 and 12 were in use in each
hold-unseen (application, certain)
Do      Give the figures of the pools (--pool-stats: in use, acquires, use time), or --hold-time
Why     in use at least 12, in use at most 12, sized for 18
""",
    "peak-unseen": """\
INFO  An observation of 3 s has probably not included the peak
peak-unseen (application, certain)
Do      Measure during the busiest 15 minutes, or give the --arrival-rate of the peak.
Why     window 3 s
""",
    "contention-cliff": """\
INFO  Throughput falls by 47 % between 16 and 100 connections
contention-cliff (database, certain)
Do      Keep the sum of all pools at 16 or below; look for hot rows, locks or shared pages
Why     peak 16, connections 100, fall 0.47
""",
    "sweep-too-short": """\
INFO  Throughput still rises at 8 connections, the most in the sweep: at least that many are
useful
sweep-too-short (database, certain)
Do      Continue the sweep with 6, 16 connections
Why     peak 8
""",
    "sweep-inconsistent": """\
WARNING  The latencies are longer than connections / throughput, by a factor of 1e+03
sweep-inconsistent (application, certain)
Do      Give seconds, or name the column latency_ms; and count connections that are always busy,
        not clients.
Why     latency ratio 1,000
""",
    "demand-unknown": """\
WARNING  The demand of a process is not known: the number is what it may have, not what it needs
demand-unknown (application, certain)
Do      Give --arrival-rate and --hold-time, or measure during the peak.
""",
    "capacity-unknown": """\
INFO  The number of connections that the database can use is not known
capacity-unknown (application, certain)
Do      Measure it with a sweep (--sweep, --sweep-file) of five to seven numbers of connections.
""",
    "wait-target-missed": """\
CRITICAL  7 connections for 16.0 busy ones, where 17 keep the p99 wait within 50 ms: the queue
grows without limit
wait-target-missed (application, likely)
Do      Shorten the holds, or give each process more slots: a pooler, fewer processes, a higher
        max_connections
Why     max_open 7, needed 17, load 16, late share 100 %, wait target 50 ms, bound by budget
""",
    "verification-failed": """\
Refused: max_open 2 was tried and fails: its p99 wait is 212 ms, of 50 ms asked for
verification-failed (application, certain)
Do      Read the runs below; measure during the peak, or give the figures that are assumed
Why     max_open 2, engine model
""",
    "left-to-the-collector": """\
WARNING  3 connections acquired at shop/refund.py:41 in charge, called from shop/views.py:18
came back by garbage collection alone
left-to-the-collector (application, certain)
Do      Use the connection or session in a with block, or close it in finally.
""",
    "released-twice": """\
WARNING  1 connection acquired at shop/refund.py:41 in charge, called from shop/views.py:18 was
released again at shop/refund.py:58 in charge
released-twice (application, certain)
Do      Leave the release to one place: a with block, or the outermost finally.
""",
    "released-elsewhere": """\
INFO  12 connections acquired at shop/refund.py:41 in charge, called from shop/views.py:18 were
released by another thread at shop/views.py:30 in close
released-elsewhere (application, certain)
""",
    "used-after-release": """\
CRITICAL  1 connection acquired at shop/refund.py:41 in charge, called from shop/views.py:18 was
used at shop/mail.py:7 in send while in the pool
used-after-release (application, certain)
Do      Read the rows before the release, and let no connection or cursor outlive its with
        block.
""",
    "used-after-fork": """\
CRITICAL  a pool created at shop/refund.py:41 in charge, called from shop/views.py:18 before a
fork was used at shop/stock.py:12 in reserve in the child process
used-after-fork (application, certain)
Do      Open the pool after the fork: in the worker's start hook (gunicorn post_fork, Celery
        worker_process_init), or dispose of the inherited one there (SQLAlchemy:
        engine.dispose(close=False)).
""",
    "pools-again-and-again": """\
WARNING  40 pools created at shop/refund.py:41 in charge, called from shop/views.py:18 in one
process, 2 of them closed, 41 acquires from all of them
pools-again-and-again (application, certain)
Do      Create the pool once, when the process starts, and close it when the process ends.
""",
    "outside-any-pool": """\
INFO  12 connections of psycopg2 opened outside of any pool
outside-any-pool (application, certain)
""",
    "no-connection-in-time": """\
WARNING  2 connections asked for at shop/stock.py:12 in reserve did not come in time; held then
by shop/refund.py:41 (2), shop/stock.py:12 (1)
no-connection-in-time (application, certain)
Do      Look at the lines that held the connections: release them earlier, or make the pool
        larger if all of them did work.
""",
}
