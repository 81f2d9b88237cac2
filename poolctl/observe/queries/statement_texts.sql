SELECT DISTINCT ON (s.queryid) s.queryid AS query_id,
       CASE WHEN octet_length(s.query) > 10000 THEN left(s.query, 10000) ELSE s.query END AS query
FROM {schema}.pg_stat_statements(true) s
WHERE s.queryid IN ({known})
