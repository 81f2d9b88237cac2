-- Identity is checked in the statement that ends it: the process id alone may belong to another backend by now.
SELECT pid, is_it, CASE WHEN is_it THEN pg_terminate_backend(pid) END AS was_signalled
FROM (
    SELECT pid, backend_type = 'client backend'
                AND date_part('epoch', backend_start) = {started_at}::float8 AS is_it
    FROM pg_stat_get_activity({pid})
    WHERE pid = {pid} AND pid <> pg_backend_pid()
) AS seen
