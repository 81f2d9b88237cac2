-- Empty once the backend is gone, its statement is over, or the condition that it was signalled for no longer holds.
SELECT pid
FROM pg_stat_get_activity({pid}) a
WHERE a.pid = {pid} AND date_part('epoch', a.backend_start) = {started_at}::float8 AND a.state = 'active' AND ({still})
