SELECT pid
FROM pg_stat_activity
WHERE pid = {pid} AND extract(epoch FROM backend_start)::float8 = {started_at}::float8
