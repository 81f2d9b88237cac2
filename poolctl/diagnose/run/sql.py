"""SQL that shows on a live server what a finding says. For psql, as a member of pg_monitor where possible: other
roles' rows hide their state and backend type from everybody else, hence the coalesce."""

BACKENDS = """\
select usename, application_name, client_addr, state, wait_event, count(*),
       max(clock_timestamp() - state_change) as longest_in_this_state
from pg_stat_activity
where coalesce(backend_type, 'client backend') = 'client backend' and pid <> pg_backend_pid()
group by 1, 2, 3, 4, 5 order by count(*) desc;"""

TRANSACTIONS = """\
select pid, usename, application_name, client_addr, state, clock_timestamp() - xact_start as transaction_age,
       clock_timestamp() - state_change as idle_for, left(query, 80) as last_query
from pg_stat_activity where state like 'idle in transaction%' order by xact_start;"""

UNREAD = """\
select pid, usename, application_name, client_addr, clock_timestamp() - query_start as running_for,
       left(query, 80) as query
from pg_stat_activity where state = 'active' and wait_event = 'ClientWrite' order by query_start;"""

SLOTS = """\
select current_setting('max_connections')::int as max_connections,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int as usable,
       count(*) as used
from pg_stat_activity where coalesce(backend_type, 'client backend') = 'client backend';"""

ROLE_LIMITS = """\
select 'role' as kind, rolname as name, rolconnlimit as connection_limit,
       (select count(*) from pg_stat_activity where usename = rolname) as used
from pg_roles where rolconnlimit >= 0
union all
select 'database', datname, datconnlimit, (select count(*) from pg_stat_activity a where a.datname = d.datname)
from pg_database d where datconnlimit >= 0;"""

SCANS = """\
select relid::regclass as table_name, n_live_tup as rows, seq_scan as scans, seq_tup_read as rows_read_by_scans,
       idx_scan as index_scans
from pg_stat_user_tables order by seq_tup_read desc limit 5;"""

ACTIVE = """\
select coalesce(wait_event_type, 'CPU') as waits_for, wait_event, count(*), left(min(query), 80) as example
from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() group by 1, 2 order by count(*) desc;"""

LOCKS = """\
select pid, pg_blocking_pids(pid) as blocked_by, clock_timestamp() - query_start as running_for,
       left(query, 80) as query
from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0 order by query_start;"""

CHURN = """\
select datname, sessions, xact_commit + xact_rollback as transactions, sessions_abandoned
from pg_stat_database where datname = current_database();"""

POOLER = "SHOW POOLS;  -- on PgBouncer's admin console: psql -p 6432 pgbouncer"
PGPOOL = "SHOW pool_processes;  -- through Pgpool-II; when every child is busy, pcp_proc_info answers instead"
