"""SQL that shows on a live server what a finding says, beside that of ``run_sql``. For psql, as a member of
pg_monitor where possible: other roles' rows hide their state from everybody else."""

ABORTED = """\
select pid, usename, application_name, client_addr, clock_timestamp() - state_change as failed_for,
       left(query, 80) as last_query
from pg_stat_activity where state = 'idle in transaction (aborted)' order by state_change;"""

HALF_SENT = """\
select pid, usename, application_name, client_addr, clock_timestamp() - query_start as running_for,
       left(query, 80) as query
from pg_stat_activity where state = 'active' and wait_event = 'ClientRead' order by query_start;"""

IDLE = """\
select pid, usename, application_name, client_addr, client_port, backend_start,
       clock_timestamp() - state_change as idle_for, left(query, 80) as last_query
from pg_stat_activity where state = 'idle' order by state_change;"""

CLIENTS = """\
select pid, usename, application_name, client_addr, client_port, state,
       clock_timestamp() - state_change as in_this_state, clock_timestamp() - backend_start as session_age,
       left(query, 80) as last_query
from pg_stat_activity where client_port is not null order by client_addr, client_port;"""

STARTING = """\
select pid, client_addr, client_port, clock_timestamp() - backend_start as since
from pg_stat_activity where state = 'starting' order by backend_start;  -- PostgreSQL 18; before that, in ps"""

STARTS = """\
select pg_postmaster_start_time(), date_trunc('second', backend_start) as started, count(*)
from pg_stat_activity where backend_type = 'client backend' group by 2 order by 2;"""

STATEMENTS = """\
select calls, round(total_exec_time) as ms, round(mean_exec_time::numeric, 1) as mean_ms, left(query, 80) as query
from pg_stat_statements order by total_exec_time desc limit 5;"""

SAFETY = """\
select coalesce(r.rolname, 'every role') as role, coalesce(d.datname, 'every database') as database, s.setconfig
from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
union all
select name, 'server', array[setting] from pg_settings
where name in ('idle_in_transaction_session_timeout', 'statement_timeout', 'lock_timeout',
               'superuser_reserved_connections', 'reserved_connections');"""

HIDDEN = """\
select sum(numbackends) as backends,
       (select count(*) from pg_stat_activity where state is not null) as visible
from pg_stat_database;"""

LINKS = """\
SHOW CLIENTS; SHOW SERVERS;  -- on PgBouncer's admin console; a client's link is its server's ptr, and that server's
-- remote_pid is the pid in pg_stat_activity"""
