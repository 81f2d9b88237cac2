-- Everything that pg_locks adds, one row a backend. Any role sees it in full, also where pg_stat_activity hides rows.
WITH seen AS (
    SELECT pid, virtualtransaction, locktype, mode, granted, database, relation,
           waitstart, -- 14+
           granted AND locktype = 'virtualxid' AS is_running,
           granted AND locktype = 'advisory' AS is_advisory,
           granted AND locktype = 'relation'
           AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AS is_strong
    FROM pg_locks
    WHERE pid IS NOT NULL AND pid <> pg_backend_pid()
), waiting AS (
    SELECT pid, pg_blocking_pids(pid) AS blocked_by
    FROM seen
    WHERE NOT granted
    ORDER BY pid
    LIMIT 500
)
SELECT seen.pid,
       min(virtualtransaction) FILTER (WHERE is_running) AS virtual_transaction,
       count(*) FILTER (WHERE is_advisory) AS advisory_locks,
       array_to_json((array_agg(DISTINCT database || ':' || relation) FILTER (WHERE is_strong))[1:10]) AS strong,
       min(locktype) FILTER (WHERE NOT granted) AS waits_kind,
       min(mode) FILTER (WHERE NOT granted) AS waits_mode,
       min(database) FILTER (WHERE NOT granted) AS waits_database,
       min(relation) FILTER (WHERE NOT granted) AS waits_relation,
       min(date_part('epoch', waitstart)) FILTER (WHERE NOT granted) AS waits_since, -- 14+
       array_to_json(min(waiting.blocked_by)) AS blocked_by
FROM seen
LEFT JOIN waiting ON waiting.pid = seen.pid
WHERE is_running OR is_advisory OR is_strong OR NOT granted
GROUP BY seen.pid
