-- Its identity is checked in the statement that ends it: a process id alone may be somebody else's by now.
SELECT pid, is_it, CASE WHEN is_it THEN pg_terminate_backend(pid) END AS was_signalled
FROM (
    SELECT pid, backend_type = 'client backend'
                AND extract(epoch FROM backend_start)::float8 = {started_at}::float8 AS is_it
    FROM pg_stat_activity
    WHERE pid = {pid} AND pid <> pg_backend_pid()
) AS seen
