-- Without the texts, which would make the server read a file of them all. First what runs now and what was asked for
-- before, so that two samples can be compared; then the costliest since the counters began.
SELECT s.queryid AS query_id, s.userid AS user_oid, s.dbid AS database_oid,
       r.rolname::text AS user, d.datname::text AS database,
       s.calls, s.rows, s.shared_blks_read AS blocks_read, s.shared_blks_hit AS blocks_hit,
       s.total_exec_time / 1000 AS time, s.stddev_exec_time / 1000 AS stddev_time -- 13+
       s.total_time / 1000 AS time, s.stddev_time / 1000 AS stddev_time -- <13
FROM {schema}.pg_stat_statements(false) s
LEFT JOIN pg_roles r ON r.oid = s.userid
LEFT JOIN pg_database d ON d.oid = s.dbid
WHERE s.queryid IS NOT NULL
AND s.toplevel -- 14+
ORDER BY s.queryid IN ({known}) DESC,
         10 DESC
LIMIT 50
