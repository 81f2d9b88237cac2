-- Identity and fault are checked in the statement that ends the backend (pg_terminate_backend) or its statement
-- (pg_cancel_backend): its process id alone may belong to another one by now, and since the plan was made it may have
-- gone on with its work. The condition reads the same row, as "a".
SELECT pid, is_it, is_at_fault, CASE WHEN is_it AND is_at_fault THEN pg_{action}_backend(pid) END AS was_signalled
FROM (
    SELECT pid, backend_type = 'client backend'
                AND date_part('epoch', backend_start) = {started_at}::float8 AS is_it,
           coalesce({still}, false) AS is_at_fault
    FROM pg_stat_get_activity({pid}) a
    WHERE a.pid = {pid} AND a.pid <> pg_backend_pid()
) AS found
