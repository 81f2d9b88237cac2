-- The functions beneath pg_stat_user_tables, one of them for every table and the others only for those shown.
WITH read AS (
    SELECT c.oid, c.relname, n.nspname, pg_stat_get_tuples_returned(c.oid) AS rows_read
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_%'
    ORDER BY 4 DESC
    LIMIT 50
)
SELECT CASE WHEN nspname = 'public' THEN relname::text ELSE nspname || '.' || relname END AS name,
       pg_stat_get_live_tuples(oid) AS live_rows, pg_stat_get_numscans(oid) AS scans, rows_read,
       (SELECT coalesce(sum(pg_stat_get_numscans(i.indexrelid)), 0)::bigint FROM pg_index i WHERE i.indrelid = oid)
       AS index_scans
FROM read
WHERE rows_read > 0
