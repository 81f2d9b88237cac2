SELECT pid
FROM pg_stat_get_activity({pid})
WHERE pid = {pid} AND date_part('epoch', backend_start) = {started_at}::float8
