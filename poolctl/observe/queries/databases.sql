SELECT datname::text AS name, numbackends AS backends, xact_commit AS commits, xact_rollback AS rollbacks,
       sessions, sessions_abandoned AS abandoned, sessions_fatal AS fatal, sessions_killed AS killed, -- 14+
       session_time / 1000 AS session_time, active_time / 1000 AS active_time, -- 14+
       idle_in_transaction_time / 1000 AS transaction_idle_time, -- 14+
       date_part('epoch', stats_reset) AS reset_at
FROM pg_stat_database
WHERE datname IS NOT NULL
ORDER BY numbackends DESC, xact_commit DESC
LIMIT 200
