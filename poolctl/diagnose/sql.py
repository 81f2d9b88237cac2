"""SQL that shows on a live server what a finding reports.

Written for psql. A role that is not a member of pg_monitor reads NULL for the state and the backend type of other
roles' backends, hence the coalesce. Which statement belongs to which finding is decided in the catalog.
"""

BACKENDS = """\
select usename, application_name, client_addr, state, wait_event, count(*),
       max(clock_timestamp() - state_change) as longest_in_this_state
from pg_stat_activity
where coalesce(backend_type, 'client backend') = 'client backend' and pid <> pg_backend_pid()
group by 1, 2, 3, 4, 5 order by count(*) desc;"""
"""Who is connected, in which state, for how long."""

TRANSACTIONS = """\
select pid, usename, application_name, client_addr, state, clock_timestamp() - xact_start as transaction_age,
       clock_timestamp() - state_change as idle_for, left(query, 80) as last_query
from pg_stat_activity where state like 'idle in transaction%' order by xact_start;"""
"""Open transactions that are idle, the oldest first."""

ABORTED = """\
select pid, usename, application_name, client_addr, clock_timestamp() - state_change as failed_for,
       left(query, 80) as last_query
from pg_stat_activity where state = 'idle in transaction (aborted)' order by state_change;"""
"""Failed transactions that were not rolled back."""

IDLE = """\
select pid, usename, application_name, client_addr, client_port, backend_start,
       clock_timestamp() - state_change as idle_for, left(query, 80) as last_query
from pg_stat_activity where state = 'idle' order by state_change;"""
"""Idle backends, the longest first, each with its client's port."""

CLIENTS = """\
select pid, usename, application_name, client_addr, client_port, state,
       clock_timestamp() - state_change as in_this_state, clock_timestamp() - backend_start as session_age,
       left(query, 80) as last_query
from pg_stat_activity where client_port is not null order by client_addr, client_port;"""
"""Backends by the client's address and port, to be compared with the processes on that machine."""

UNREAD = """\
select pid, usename, application_name, client_addr, clock_timestamp() - query_start as running_for,
       left(query, 80) as query
from pg_stat_activity where state = 'active' and wait_event = 'ClientWrite' order by query_start;"""
"""Statements whose client does not read the rows."""

HALF_SENT = """\
select pid, usename, application_name, client_addr, clock_timestamp() - query_start as running_for,
       left(query, 80) as query
from pg_stat_activity where state = 'active' and wait_event = 'ClientRead' order by query_start;"""
"""Statements that wait for the rest of the client's message."""

ACTIVE = """\
select coalesce(wait_event_type, 'CPU') as waits_for, wait_event, count(*), left(min(query), 80) as example
from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() group by 1, 2 order by count(*) desc;"""
"""What active backends wait for. Backends that compute have no wait event."""

STATEMENTS = """\
select calls, round(total_exec_time) as ms, round(mean_exec_time::numeric, 1) as mean_ms, left(query, 80) as query
from pg_stat_statements order by total_exec_time desc limit 5;"""
"""Statements by total execution time. Needs the extension pg_stat_statements."""

SCANS = """\
select relid::regclass as table_name, n_live_tup as rows, seq_scan as scans, seq_tup_read as rows_read_by_scans,
       idx_scan as index_scans
from pg_stat_user_tables order by seq_tup_read desc limit 5;"""
"""Tables by rows read from end to end."""

LOCKS = """\
select pid, pg_blocking_pids(pid) as blocked_by, clock_timestamp() - query_start as running_for,
       left(query, 80) as query
from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0 order by query_start;"""
"""Who waits for a lock, and behind which backend."""

SLOTS = """\
select current_setting('max_connections')::int as max_connections,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int as usable,
       count(*) as used
from pg_stat_activity where coalesce(backend_type, 'client backend') = 'client backend';"""
"""Connection slots: all, those for ordinary roles, those in use."""

ROLE_LIMITS = """\
select 'role' as kind, rolname as name, rolconnlimit as connection_limit,
       (select count(*) from pg_stat_activity where usename = rolname) as used
from pg_roles where rolconnlimit >= 0
union all
select 'database', datname, datconnlimit, (select count(*) from pg_stat_activity a where a.datname = d.datname)
from pg_database d where datconnlimit >= 0;"""
"""CONNECTION LIMIT of roles and databases, and how much is used."""

CHURN = """\
select datname, sessions, xact_commit + xact_rollback as transactions, sessions_abandoned
from pg_stat_database where datname = current_database();"""
"""Sessions and transactions since the statistics were last reset. PostgreSQL 14 or later."""

STARTS = """\
select pg_postmaster_start_time(), date_trunc('second', backend_start) as started, count(*)
from pg_stat_activity where backend_type = 'client backend' group by 2 order by 2;"""
"""When the server and its backends started."""

STARTING = """\
select pid, client_addr, client_port, clock_timestamp() - backend_start as since
from pg_stat_activity where state = 'starting' order by backend_start;  -- PostgreSQL 18; before that, in ps"""
"""Backends that have not finished logging in."""

SAFETY = """\
select coalesce(r.rolname, 'every role') as role, coalesce(d.datname, 'every database') as database, s.setconfig
from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
union all
select name, 'server', array[setting] from pg_settings
where name in ('idle_in_transaction_session_timeout', 'statement_timeout', 'lock_timeout',
               'superuser_reserved_connections', 'reserved_connections');"""
"""Timeouts and reserved slots: of roles and databases, then of the server."""

HIDDEN = """\
select sum(numbackends) as backends,
       (select count(*) from pg_stat_activity where state is not null) as visible
from pg_stat_database;"""
"""How many backends exist, and of how many this role can read the state."""

POOLER = "SHOW POOLS;  -- on PgBouncer's admin console: psql -p 6432 pgbouncer"

PGPOOL = "SHOW pool_processes;  -- through Pgpool-II; when every child is busy, pcp_proc_info answers instead"

LINKS = """\
SHOW CLIENTS; SHOW SERVERS;  -- on PgBouncer's admin console; a client's link is its server's ptr, and that server's
-- remote_pid is the pid in pg_stat_activity"""

POOLER_LINKS = f"{POOLER}\n{LINKS}"
