-- Not now(): it is the beginning of the statement, and other sessions' instants may lie after it.
SELECT date_part('epoch', clock_timestamp()) AS at,
       date_part('epoch', pg_postmaster_start_time()) AS started_at
