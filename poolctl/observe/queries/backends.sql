-- The function beneath pg_stat_activity: the view's joins would be half of the cost. Instants as seconds, so that the
-- same instant is the same number in every sample; date_part(), since extract() makes a numeric of each.
SELECT a.pid, pg_get_userbyid(a.usesysid)::text AS user,
       (SELECT d.datname::text FROM pg_database d WHERE d.oid = a.datid) AS database, a.application_name AS application,
       a.backend_type, host(a.client_addr) AS client, a.client_port,
       date_part('epoch', a.backend_start) AS started_at,
       date_part('epoch', a.xact_start) AS transaction_at,
       date_part('epoch', a.query_start) AS query_at,
       date_part('epoch', a.state_change) AS state_at,
       a.state, a.wait_event_type, a.wait_event,
       -- Cutting costs, and fails on text of another encoding: only where a server keeps very long texts.
       CASE WHEN octet_length(a.query) > 10000 THEN left(a.query, 10000) ELSE a.query END AS query,
       a.query_id, -- 14+
       a.backend_xid IS NOT NULL AS has_xid, a.backend_xmin IS NOT NULL AS has_xmin
FROM pg_stat_get_activity(NULL) a
WHERE a.pid <> pg_backend_pid()
