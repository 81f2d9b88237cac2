#!/bin/sh
# What a PostgreSQL, its pooler and its host show of a connection incident, as one file that
#     poolctl inspect --evidence FILE
# reads. It changes nothing: transactions are read-only, every statement and every program has a timeout, and it takes
# one connection at a time. It needs psql; ss and ps say more on the server's own host. It does not need poolctl.
#
#     PGHOST=db1 PGDATABASE=shop PGUSER=ops sh poolctl-collect.sh > evidence.txt 2>&1
#
# The server is the one that libpq's environment names. Passwords come from ~/.pgpass or PGPASSWORD; none is printed.
#   PGBOUNCER="host=pgb1 port=6432 user=stats"   also ask this PgBouncer's admin console
#   POOLCTL_QUERIES=no                           leave the statements out, which may hold personal data
#   POOLCTL_SECONDS=10                           between the two samples of the server

seconds=${POOLCTL_SECONDS:-10}
PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-5}
PGAPPNAME=poolctl
LC_ALL=C
export PGCONNECT_TIMEOUT PGAPPNAME LC_ALL

query="a.query"
[ "${POOLCTL_QUERIES:-yes}" = no ] && query="''::text as query"

limited() { # run a program for at most 30 s, where the system can
  if command -v timeout >/dev/null 2>&1; then timeout 30 "$@"; else "$@"; fi
}

section() { printf '\n== poolctl evidence: %s\n' "$1"; }

columns="now() as now, a.datname, a.pid, a.usename, a.application_name, a.client_addr, a.client_port, a.backend_start, a.xact_start, a.query_start, a.state_change, a.wait_event_type, a.wait_event, a.state, a.backend_xid, a.backend_xmin, a.backend_type, case when a.wait_event_type = 'Lock' then pg_blocking_pids(a.pid) end as blocked_by, $query"

activity() {
  limited psql -X -q -A -v ON_ERROR_STOP=1 <<SQL
begin read only;
set local statement_timeout = '5s';
set local lock_timeout = '2s';
\\copy (select $columns from pg_stat_activity a where a.pid <> pg_backend_pid()) to stdout with (format csv, header)
commit;
SQL
}

once() {
  limited psql -X -q -A -v ON_ERROR_STOP=1 <<'SQL'
begin read only;
set local statement_timeout = '5s';
set local lock_timeout = '2s';
\copy (select name, setting from pg_settings where name in ('max_connections', 'superuser_reserved_connections', 'reserved_connections', 'server_version', 'server_version_num', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'statement_timeout', 'lock_timeout', 'tcp_keepalives_idle')) to stdout with (format csv, header)
\echo
\copy (select datname, numbackends, xact_commit, xact_rollback from pg_stat_database where datname is not null) to stdout with (format csv, header)
commit;
SQL
}

section "date"
date -u '+%Y-%m-%d %H:%M:%S+00'
section "server"
if activity; then
  echo
  once
  sleep "$seconds"
  section "server, $seconds seconds later"
  activity
fi

if [ -n "${PGBOUNCER:-}" ]; then
  section "pgbouncer"
  for show in POOLS CLIENTS SERVERS LISTS DATABASES STATS; do
    limited psql -X -q "$PGBOUNCER dbname=pgbouncer" -c "SHOW $show"
    echo
  done
  # Without what may be a secret or a path.
  limited psql -X -q "$PGBOUNCER dbname=pgbouncer" -c "SHOW CONFIG" | grep -v -i -E 'auth|pass|user *\||file|cert|key_'
fi

section "processes"
if command -v ps >/dev/null 2>&1; then
  # Only the titles of backends: command lines of other programs may hold secrets.
  limited ps -eo pid,args | grep -E '^ *[0-9]+ postgres: ' || echo "(no backend of PostgreSQL runs here)"
fi
section "sockets"
if command -v ss >/dev/null 2>&1; then
  limited ss -Htan "( sport = :${PGPORT:-5432} or dport = :${PGPORT:-5432} )" | awk '{ count[$1]++ } END { for (state in count) print state, count[state] }'
fi
section "end"
