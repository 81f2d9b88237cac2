-- Instants as seconds, so that the same instant is the same number in every sample.
SELECT a.pid, a.usename::text AS user, a.datname::text AS database, a.application_name AS application,
       a.backend_type, host(a.client_addr) AS client, a.client_port,
       extract(epoch FROM a.backend_start)::float8 AS started_at,
       extract(epoch FROM a.xact_start)::float8 AS transaction_at,
       extract(epoch FROM a.query_start)::float8 AS query_at,
       extract(epoch FROM a.state_change)::float8 AS state_at,
       a.state, a.wait_event_type, a.wait_event,
       -- Cutting costs, and fails on text of another encoding: only where a server keeps very long texts.
       CASE WHEN octet_length(a.query) > 10000 THEN left(a.query, 10000) ELSE a.query END AS query,
       a.query_id, -- 14+
       a.backend_xid IS NOT NULL AS has_xid, a.backend_xmin IS NOT NULL AS has_xmin
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid()
