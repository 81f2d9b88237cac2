-- Not now(): it is the beginning of the statement, and other sessions' instants may lie after it.
SELECT extract(epoch FROM clock_timestamp())::float8 AS at,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started_at
